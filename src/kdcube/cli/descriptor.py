"""``kdcube descriptor``: what a deployment is, checked and explained before anything is rendered."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from kdcube import __version__
from kdcube.cli.bundles_new import CannotWrite, write_bundle
from kdcube.config.documents import Finding
from kdcube.deploy.descriptor import starting
from kdcube.deploy.descriptor.checks.rule import Target
from kdcube.deploy.descriptor.checks.verdict import Verdict, judged
from kdcube.deploy.descriptor.edge import EdgeKind
from kdcube.deploy.descriptor.explaining import explained
from kdcube.deploy.descriptor.file import read_text
from kdcube.deploy.descriptor.reading import FILE, Invalid, Read, Valid, environments_of, read_descriptor
from kdcube.deploy.descriptor.references import Vault
from kdcube.deploy.descriptor.schema import descriptor_schema
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_scope

File = Annotated[str, Parameter(allow_leading_hyphen=True)]
Json = Annotated[bool, Parameter(negative="")]
For = Annotated[Target | None, Parameter(name="--for")]


def init(file: Path = Path(FILE), /, *, tenant: str = "local", project: str = "main") -> None:
    """Write a first descriptor with what it refers to: a bundle, and new secrets in files.

    Parameters
    ----------
    file
        Where; a file that exists is left alone, as are the secrets and bundles that are there.
    tenant
        Whose installation it is.
    project
        Of the tenant.
    """
    for name, value in (("tenant", tenant), ("project", project)):
        check_scope(name, value)
    made = _write_new(file, starting.first_descriptor(tenant, project))
    folder = file.absolute().parent
    try:
        made += _write_secrets(folder / starting.SECRETS)
        if not (folder / starting.BUNDLES).exists():
            (folder / starting.BUNDLES).mkdir()
            write_bundle(folder / starting.BUNDLES / starting.BUNDLE, starting.BUNDLE)
            made.append(f"{starting.BUNDLES}/{starting.BUNDLE}/")
    except OSError as error:
        raise CannotWrite(f"{error.filename} cannot be made: {error.strerror}") from None
    print(f"made {', '.join(made)}\n\n  kdcube descriptor check {'' if str(file) == FILE else file}".rstrip())


def check(file: File = FILE, /, *, for_: For = None, environment: str | None = None, json: Json = False) -> None:
    """Tell everything that is wrong with a descriptor, and for what it is fit.

    Parameters
    ----------
    file
        The descriptor, YAML or JSON; - is standard input.
    for_
        Only for this target. By default for both, where fit for one of them is enough; what is missing for the other is
        only counted where it is not meant: ECS without edge.aws, compose with edge alb-paths.
    environment
        With this environment merged in. By default without one, and then with each.
    json
        Print it as JSON.
    """
    text, is_json = read_text(file)
    targets = tuple(Target) if for_ is None else (for_,)
    read = read_descriptor(text, environment, json=is_json)
    verdict = judged(read.descriptor, targets) if isinstance(read, Valid) else None
    missing = _missing_files(read, file)
    others = () if environment or verdict is None else environments_of(text, json=is_json)
    elsewhere = {name: read_descriptor(text, name, json=is_json) for name in others}
    if json:
        print(dumps(_facts(file, environment, read, verdict, missing, elsewhere), indent=2), flush=True)
    else:
        _print_findings(read, verdict, missing, elsewhere, _not_meant(read, verdict, for_))
    unread = [name for name, of in elsewhere.items() if isinstance(of, Invalid)]
    if isinstance(read, Invalid):
        _refuse(file, f"is not valid: {_counted(len(read.errors), 'error')}")
    if unread:
        _refuse(file, f"is not valid in {_counted(len(unread), 'environment')}: {', '.join(unread)}")
    if verdict is not None and not verdict.fit:
        found = sum(told.refuses for told in verdict.told)
        _refuse(file, f"is fit for {' and '.join(targets)} not yet: {_counted(found, 'error')}")
    if verdict is not None and not json:
        print(_summary(file, read, verdict))


def explain(file: File = FILE, /, *, environment: str | None = None, json: Json = False) -> None:
    """Tell in words what the deployment will be: services, ways, data, secrets by reference, defaults.

    Parameters
    ----------
    file
        The descriptor, YAML or JSON; - is standard input.
    environment
        With this environment merged in.
    json
        Print it as JSON.
    """
    text, is_json = read_text(file)
    read = read_descriptor(text, environment, json=is_json)
    if isinstance(read, Invalid):
        for finding in read.errors:
            print(f"error: {finding}")
        _refuse(file, f"is not valid: {_counted(len(read.errors), 'error')}")
    chapters = explained(read.descriptor, read.document, __version__)
    if json:
        print(dumps({chapter.heading: chapter.lines for chapter in chapters}, indent=2), flush=True)
        return
    scope = f"{read.descriptor.tenant}/{read.descriptor.project}"
    print(scope + (f", environment {environment}" if environment else ""))
    for chapter in chapters:
        print(f"\n{chapter.heading}")
        for line in chapter.lines:
            print(f"  {line}")


def schema(file: Path | None = None, /) -> None:
    """Print a JSON Schema of descriptors, for editors and other tools.

    Parameters
    ----------
    file
        Write it there instead; a file that exists is left alone.
    """
    text = dumps(descriptor_schema(), indent=2) + "\n"
    if file is not None:
        _write_new(file, text)
        return
    print(text, end="")


def _missing_files(read: Read, file: str) -> list[Finding]:
    """Files of secrets that are not there on this machine: told, as they may be on another."""
    if isinstance(read, Invalid) or file == "-":
        return []
    folder = Path(file).expanduser().absolute().parent
    return [
        Finding(f"secrets.{name}", f"is {folder / reference.name}, which is not there on this machine")
        for name, reference in read.descriptor.secrets.given.items()
        if reference.vault is Vault.FILE and not (folder / reference.name).is_file()
    ]


def _not_meant(read: Read, verdict: Verdict | None, asked: Target | None) -> frozenset[Target]:
    """Where another target fits and nobody asked for it: ECS without a word of AWS, compose with an edge of AWS."""
    if asked is not None or isinstance(read, Invalid) or verdict is None or not verdict.fit:
        return frozenset()
    edge, found = read.descriptor.edge, set[Target]()
    if edge.aws is None:
        found.add(Target.ECS)
    if edge.kind is EdgeKind.ALB_PATHS:
        found.add(Target.COMPOSE)
    return frozenset(found) - frozenset(verdict.fit)


def _print_findings(
    read: Read,
    verdict: Verdict | None,
    missing: list[Finding],
    elsewhere: Mapping[str, Read],
    not_meant: frozenset[Target],
) -> None:
    for finding in (*read.warnings, *missing):
        print(f"warning: {finding}")
    for finding in read.errors if isinstance(read, Invalid) else ():
        print(f"error: {finding}")
    for told in verdict.told if verdict else ():
        if told.targets - not_meant:
            print(f"{'error' if told.refuses else 'warning'}: {told}")
    for name, of in elsewhere.items():
        for finding in of.errors if isinstance(of, Invalid) else ():
            print(f"error: in {name}: {finding}")


def _summary(file: str, read: Read, verdict: Verdict) -> str:
    assert isinstance(read, Valid)
    unfit = [target for target in Target if target in verdict.targets and target not in verdict.fit]
    scope = f"{read.descriptor.tenant}/{read.descriptor.project}"
    checksum = f"gateway checksum {read.descriptor.gateway_config.checksum}"
    told = f"{file} is valid for {' and '.join(verdict.fit)}: {scope}, {checksum}"
    for target in unfit:
        told += f"\nfor {target} {_counted(len(verdict.errors(target)), 'error')} would be left; see --for {target}"
    return told


def _facts(
    file: str,
    environment: str | None,
    read: Read,
    verdict: Verdict | None,
    missing: list[Finding],
    elsewhere: Mapping[str, Read],
) -> dict[str, Any]:
    errors = [_finding(finding) for finding in read.errors] if isinstance(read, Invalid) else []
    warnings = [_finding(finding) for finding in (*read.warnings, *missing)]
    for told in verdict.told if verdict else ():
        (errors if told.refuses else warnings).append(
            {**_finding(told.finding), "targets": sorted(told.targets), "check": told.rule}
        )
    return {
        "source": file,
        "environment": environment,
        "valid": isinstance(read, Valid),
        "fit": list(verdict.fit) if verdict else [],
        "errors": errors,
        "warnings": warnings,
        "environments": {
            name: [_finding(finding) for finding in of.errors] if isinstance(of, Invalid) else []
            for name, of in elsewhere.items()
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "path": finding.path,
        "message": finding.message,
        "allowed": finding.allowed,
        "closest": finding.closest,
    }


def _refuse(file: str, why: str) -> NoReturn:
    sys.stdout.flush()
    raise InvalidInput("file", f"{'standard input' if file == '-' else file} {why}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _write_new(file: Path, text: str) -> list[str]:
    try:
        with file.expanduser().open("x") as opened:
            opened.write(text)
    except FileExistsError:
        raise InvalidInput("file", f"{file} exists already; remove it, or give another name") from None
    except OSError as error:
        raise InvalidInput("file", f"cannot write {file}: {error.strerror}") from None
    return [str(file)]


def _write_secrets(folder: Path) -> list[str]:
    """Each in a file that its owner alone may read. One that is there is left alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    made: list[str] = []
    for name, value in {**starting.first_secrets(), ".gitignore": "*\n"}.items():
        try:
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(value)
        except FileExistsError:
            continue
        made.append(f"{folder.name}/{name}")
    return made

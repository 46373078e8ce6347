"""``kdcube config``: the gateway's configuration, checked and shown before a service runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, cast

from cyclopts import Parameter

from kdcube.cli.output import table
from kdcube.config.documents import Finding, dotted
from kdcube.config.documents import Path as DocumentPath
from kdcube.config.environment import Environment
from kdcube.config.gateway import GATEWAY_MAX_BYTES, VARIABLE, Invalid, Valid, check_gateway
from kdcube.config.load import load
from kdcube.config.profiles import Profile
from kdcube.config.resolution import PATTERN_LISTS, SECTIONS, Origin, Source
from kdcube.config.schema import gateway_schema
from kdcube.config.sections import COMPONENTS, component_of
from kdcube.protocol.errors import ConfigurationError, InvalidInput

File = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
Json = Annotated[bool, Parameter(negative="")]
Component = Literal["ingress", "proc"]


def check(file: File = None, /, *, json: Json = False) -> None:
    """Tell everything that is wrong with a configuration, and what is probably not meant.

    Parameters
    ----------
    file
        The file that holds it; - is standard input. By default the variable GATEWAY_CONFIG_JSON is checked.
    json
        Print it as JSON.
    """
    given = _given(file)
    if given.text is None:
        raise InvalidInput("file", f"give a FILE, - for standard input, or set {VARIABLE}")
    checked = check_gateway(given.text)
    if json:
        _print_json(_verdict(given, checked))
    elif isinstance(checked, Valid):
        config = checked.config
        _print_findings("warning", checked.warnings)
        print(f"{given.name} is valid: {config.tenant}/{config.project}, {config.profile}, checksum {config.checksum}")
    if isinstance(checked, Invalid):
        _refuse(given, checked, quietly=json)


def show(file: File = None, /, *, component: Component | None = None, json: Json = False) -> None:
    """Show the configuration that runs, every field of it, and where its values come from.

    Parameters
    ----------
    file
        The file that holds it; - is standard input. By default the variable GATEWAY_CONFIG_JSON is shown, and without
        it what runs then.
    component
        Show what this component sees; by default that of GATEWAY_COMPONENT, else both.
    json
        Print it as JSON. Its member "config" can be checked again.
    """
    given = _given(file)
    seen_by = component or given.component
    checked = check_gateway(given.text) if given.text is not None else check_gateway(_WITHOUT)
    if isinstance(checked, Invalid):
        _refuse(given, checked, quietly=False)
    rows = list(_rows(checked, seen_by))
    if json:
        _print_json(_resolved(given, checked, seen_by, rows))
        return
    config = checked.config
    print(f"{given.name}, as {seen_by or 'ingress and proc'} {'see it' if seen_by is None else 'sees it'}")
    print(f"checksum {config.checksum}\n", flush=True)
    table(("field", "value", "from"), ((row.path, dumps(row.value), row.told(config.profile)) for row in rows))
    if checked.warnings:
        print(flush=True)
        _print_findings("warning", checked.warnings)


def default(
    file: Path | None = None,
    /,
    *,
    profile: Profile = Profile.DEVELOPMENT,
    tenant: str = "local",
    project: str = "main",
) -> None:
    """Print a configuration with every field and its default, to begin with.

    Parameters
    ----------
    file
        Write it there instead; a file that exists is left alone.
    profile
        The profile whose defaults they are.
    tenant
        The tenant that stands in it.
    project
        The project that stands in it.
    """
    checked = check_gateway(dumps({"tenant": tenant, "project": project, "profile": profile}))
    if isinstance(checked, Invalid):
        raise InvalidInput("tenant", str(checked))
    _write(file, checked.config.of("proc"))


def schema(file: Path | None = None, /) -> None:
    """Print a JSON Schema of the configuration, for editors and other tools.

    Parameters
    ----------
    file
        Write it there instead; a file that exists is left alone.
    """
    _write(file, gateway_schema())


_WITHOUT = dumps({"tenant": "local", "project": "main"})
"""What runs without a configuration."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A document, and how it is called in what is printed."""

    name: str
    text: str | None
    component: str | None = None


@dataclass(frozen=True, slots=True)
class _Variables:
    text: str | None
    component: str | None

    @classmethod
    def read(cls, environment: Environment) -> Self:
        return cls(environment.optional(VARIABLE), environment.optional("GATEWAY_COMPONENT"))


def _given(file: str | None) -> _Given:
    variables = load(_Variables)
    try:
        component = None if variables.component is None else component_of(variables.component)
    except ConfigurationError as error:
        raise InvalidInput(error.name, str(error)) from error
    if file is None:
        name = VARIABLE if variables.text is not None else f"{VARIABLE} is not set: the defaults"
        return _Given(name, variables.text, component)
    return _Given("standard input" if file == "-" else file, _text(file), component)


def _text(file: str) -> str:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(GATEWAY_MAX_BYTES + 1)
        else:
            with Path(file).expanduser().open("rb") as opened:
                content = opened.read(GATEWAY_MAX_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput("file", f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput("file", f"cannot read {file}: it is not UTF-8") from None


def _refuse(given: _Given, invalid: Invalid, *, quietly: bool) -> NoReturn:
    if not quietly:
        _print_findings("warning", invalid.warnings)
        _print_findings("error", invalid.errors)
    found = len(invalid.errors)
    sys.stdout.flush()
    raise InvalidInput("file", f"{given.name} is not valid: {found} error{'s' * (found > 1)}")


def _print_findings(kind: str, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        print(f"{kind}: {finding}")


def _verdict(given: _Given, checked: Valid | Invalid) -> dict[str, Any]:
    valid = isinstance(checked, Valid)
    return {
        "source": given.name,
        "valid": valid,
        "checksum": checked.config.checksum if valid else None,
        "errors": [] if valid else list(map(_finding, checked.errors)),
        "warnings": list(map(_finding, checked.warnings)),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "path": finding.path,
        "message": finding.message,
        "allowed": finding.allowed,
        "closest": finding.closest,
    }


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    value: Any
    origin: Origin

    def told(self, profile: Profile) -> str:
        match self.origin.source:
            case Source.GIVEN:
                written = dotted(self.origin.path)
                return "given" if written == self.path else f"given as {written}"
            case Source.PROFILE:
                return f"profile {profile}"
            case Source.DEFAULT:
                return "default"


def _rows(checked: Valid, seen_by: str | None) -> Iterator[_Row]:
    """Every field; where both components are shown and see the same of the same origin, it stands there once."""
    config, origins = checked.config.document(), checked.origins
    for name in ("tenant", "project", "profile"):
        yield _Row(name, config[name], origins[name,])
    for section in (*SECTIONS, *PATTERN_LISTS):
        fields = _leaves(config[section]["proc"])
        for path in fields:
            rows = [(component, _row(config, origins, (section, component, *path))) for component in COMPONENTS]
            shown = [row for component, row in rows if seen_by in (None, component)]
            if len(shown) > 1 and shown[0] != shown[1]:
                for component, row in rows:
                    yield _Row(dotted((section, component, *path)), row.value, row.origin)
            else:
                yield shown[0]


def _row(config: Any, origins: Mapping[DocumentPath, Origin], path: tuple[str, ...]) -> _Row:
    """As a component sees it: without the component in the path."""
    value, flat, origin = config, (path[0], *path[2:]), origins[path]
    for name in path:
        value = value[name]
    return _Row(dotted(flat), value, origin if origin.source is Source.GIVEN else Origin(origin.source, flat))


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, Any]", value).items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path


def _resolved(given: _Given, checked: Valid, seen_by: str | None, rows: list[_Row]) -> dict[str, Any]:
    config = checked.config
    return {
        "source": given.name,
        "component": seen_by,
        "checksum": config.checksum,
        "config": config.document() if seen_by is None else config.of(seen_by),
        "from": {row.path: {"source": row.origin.source, "path": dotted(row.origin.path)} for row in rows},
        "warnings": list(map(_finding, checked.warnings)),
    }


def _print_json(value: Any) -> None:
    print(dumps(value, indent=2))


def _write(file: Path | None, value: Any) -> None:
    if file is None:
        _print_json(value)
        return
    try:
        with file.expanduser().open("x") as opened:
            opened.write(dumps(value, indent=2) + "\n")
    except FileExistsError:
        raise InvalidInput("file", f"{file} exists already; remove it, or give another name") from None
    except OSError as error:
        raise InvalidInput("file", f"cannot write {file}: {error.strerror}") from None

"""kdcube.yaml as text: everything that is wrong with it at once, or what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pydantic import ValidationError

from kdcube.config.bundles import BundleEntry
from kdcube.config.documents import Finding, Path, UnreadableDocument, dotted, named, read_json, shown
from kdcube.config.findings import findings_of
from kdcube.config.gateway import Invalid as InvalidGateway
from kdcube.config.gateway import check_gateway_document
from kdcube.config.resolution import WRAPPER
from kdcube.config.yaml_files import json_of
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.overlays import SHORT, merged, overlay_of, unfolded

FILE = "kdcube.yaml"
_HIDDEN = ("secrets", "bundles")
"""Parts of which nothing is repeated: what stands there by mistake may be a secret."""

_ELSEWHERE: Mapping[str, str] = {
    "password": "passwords are references under secrets, as secrets.postgres_password",
    "aws": "it is a field of edge",
    "hosts": "it is a field of edge",
    "region": "it is a field of edge.aws",
    "vpc": "it is a field of edge.aws.network",
    "valkey": "it is a field of data",
    "redis": "Valkey is data.valkey",
    "postgres": "it is a field of data",
    "efs": "it is a field of storage",
    "registry": "it is a field of bundles",
    "default_bundle_id": "it is a field of bundles.registry",
    "login": "it is a field of auth, with the providers oidc and cognito",
    "environment": "variables of a service are its env; environments of a deployment are environments",
}


@dataclass(frozen=True, slots=True)
class Valid:
    """It can be read. What it takes for compose or ECS is told by ``checks``."""

    descriptor: Descriptor
    document: Mapping[str, Any]
    """As it was given, with the environment merged in and short texts unfolded."""
    warnings: tuple[Finding, ...] = ()
    environment: str | None = None


@dataclass(frozen=True, slots=True)
class Invalid:
    """It cannot be read, and everything that is wrong with it."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


Read: TypeAlias = Valid | Invalid


def read_descriptor(text: str, environment: str | None = None, *, json: bool = False) -> Read:
    """``text`` is YAML, or ``json``. Raises nothing."""
    try:
        return read_document(read_json(text if json else json_of(text)), environment)
    except UnreadableDocument as error:
        return Invalid(error.findings)


def environments_of(text: str, *, json: bool = False) -> tuple[str, ...]:
    """The names of the environments in a text; none where it cannot be read."""
    try:
        document = read_json(text if json else json_of(text))
    except UnreadableDocument:
        return ()
    found = cast("Any", document).get("environments") if isinstance(document, dict) else None
    return tuple(cast("dict[str, Any]", found)) if isinstance(found, dict) else ()


def read_document(given: Any, environment: str | None = None) -> Read:
    """A descriptor as plain data, of a bounded size. Raises nothing."""
    if not isinstance(given, dict):
        return Invalid((Finding("", f"is {shown(given)}; give an object with version, tenant and project"),))
    base, overlay = unfolded(cast("dict[str, Any]", given)), dict[str, Any]()
    if environment is not None:
        found = overlay_of(base, environment)
        if isinstance(found, Finding):
            return Invalid((found,))
        overlay = found
    elif not isinstance(base.get("environments", {}), dict):
        return Invalid((Finding("environments", "must be an object of environments by name"),))
    base.pop("environments", None)
    base.pop("$schema", None)
    document = merged(base, overlay) if overlay else base
    written = _Written(cast("dict[str, Any]", given), overlay, environment, document)
    return _validated(document, written, environment)


def _validated(document: dict[str, Any], written: _Written, environment: str | None) -> Read:
    errors = [Finding(dotted(written(path)), _NULL) for path in _nulls(document, ())]
    descriptor = None
    try:
        descriptor = Descriptor.model_validate(document)
    except ValidationError as error:
        hints = _elsewhere(document)
        errors += findings_of(
            error, Descriptor, written=written, given=written.is_given, elsewhere=hints, values=_may_be_shown
        )
    gateway_errors, warnings = _gateway(document, written)
    errors += gateway_errors
    if descriptor is None or errors:
        return Invalid(tuple(errors), tuple(warnings))
    return Valid(descriptor, document, tuple(warnings), environment)


def _may_be_shown(path: Path) -> bool:
    return path[0] not in _HIDDEN


_NULL = "is null; leave it out, or give {} where it is an object of defaults"
_MAY_BE_NULL = (("gateway",), ("bundles", "registry"), ("services", "metrics", "mapping"))


def _nulls(value: Any, path: Path) -> Iterator[Path]:
    """Where a name has no value, as of a section in YAML whose lines are all commented out."""
    if isinstance(value, dict) and path not in _MAY_BE_NULL:
        for name, field in cast("dict[str, Any]", value).items():
            if field is None:
                yield (*path, name)
            else:
                yield from _nulls(field, (*path, name))


def _elsewhere(document: Mapping[str, Any]) -> dict[str, str]:
    if "gateway" in document and isinstance(document.get("bundles"), dict):
        entries = {name for name in BundleEntry.model_fields if name in cast("dict[str, Any]", document["bundles"])}
        return {**_ELSEWHERE, **dict.fromkeys(entries, "entries stand in bundles.registry.bundles, by their id")}
    return dict(_ELSEWHERE)


def _gateway(document: Mapping[str, Any], written: _Written) -> tuple[list[Finding], list[Finding]]:
    """The findings of the gateway configuration, below ``gateway``."""
    given = document.get("gateway", {})
    if not isinstance(given, dict):
        return [], []  # told by the model
    fields = cast("dict[str, Any]", given)
    twice = [name for name in ("tenant", "project", "tenant_id", "project_id") if name in fields]
    errors = [Finding(written.below_gateway(name), "stands at the top of the descriptor; remove it") for name in twice]
    if set(fields) == {WRAPPER}:
        return [Finding(written.below_gateway(WRAPPER), "is one too many; give its members in gateway itself")], []
    whole = {name: value for name, value in fields.items() if name not in twice}
    checked = check_gateway_document({**whole, "tenant": "checked", "project": "checked"})
    if isinstance(checked, InvalidGateway):
        errors += [_moved(finding, written) for finding in checked.errors]
    return errors, [_moved(finding, written) for finding in checked.warnings]


def _moved(finding: Finding, written: _Written) -> Finding:
    return Finding(written.below_gateway(finding.path), finding.message, finding.allowed, finding.closest)


class _Written:
    """Gives the path of a value as its author wrote it: short, without the kinds of unions, in the environment."""

    def __init__(
        self, given: Mapping[str, Any], overlay: Mapping[str, Any], environment: str | None, document: Mapping[str, Any]
    ) -> None:
        self._given = given
        self._overlay = overlay
        self._environment = environment
        self._document = document

    def __call__(self, path: Path) -> Path:
        plain = self._without_kinds(path)
        stem: Path = ()
        given: Any = self._given
        if self._environment is not None and _is_in(self._overlay, plain):
            stem = ("environments", self._environment)
            given = self._given["environments"][self._environment]
        for length in range(1, len(plain)):
            given = _below(given, plain[length - 1])
            if isinstance(given, str) and _short(plain[:length]) == plain[length]:
                return (*stem, *plain[:length])
        return (*stem, *plain)

    def is_given(self, path: Path) -> bool:
        """And no default."""
        return _is_in(self._document, self._without_kinds(path))

    def below_gateway(self, path: str) -> str:
        """Of what is known by a dotted path alone."""
        first = path.split(".")[0]
        told = f"gateway.{path}" if path else "gateway"
        if self._environment is not None and _is_in(self._overlay, tuple(told.split("."))) and first:
            return f"environments.{named(self._environment)}.{told}"
        return told

    def _without_kinds(self, path: Path) -> Path:
        """pydantic puts the kind behind an object whose other fields depend on it."""
        found: list[str | int] = []
        at: Any = self._document
        for part in path:
            name = _short(tuple(found))
            if name is not None and isinstance(at, dict) and part != name:
                fields = cast("dict[str, Any]", at)
                if fields.get(name) == part and part not in fields:
                    continue
            found.append(part)
            at = _below(at, part)
        return tuple(found)


def _short(path: Path) -> str | None:
    return next((name for known, name in SHORT.items() if known == path), None)


def _below(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(cast("list[Any]", value)):
        return cast("list[Any]", value)[part]
    return None


def _is_in(overlay: Any, path: Path) -> bool:
    """Whether it has something there, or something else than an object above it."""
    for part in path:
        if not isinstance(overlay, dict):
            return overlay is not None
        fields = cast("dict[Any, Any]", overlay)
        if part not in fields:
            return False
        overlay = fields[part]
    return True

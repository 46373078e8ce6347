"""GATEWAY_CONFIG_JSON: who may send how much, and how much the system takes on.

How it may be written is in ``resolution.py``, what its sections hold in ``sections.py``, what profiles set in
``profiles.py``. Here every section is resolved: ``gateway.limits.proc.max_queue_size``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kdcube.config.documents import Finding, Path, UnreadableDocument, read_json, shown
from kdcube.config.environment import Environment
from kdcube.config.findings import findings_of
from kdcube.config.patterns import Patterns
from kdcube.config.plausibility import implausible
from kdcube.config.profiles import Profile
from kdcube.config.reading import without_effect
from kdcube.config.resolution import SECTIONS, Origin, Resolution, resolve, without_members
from kdcube.config.sections import (
    AtRestart,
    Backpressure,
    Limits,
    PerComponent,
    Pools,
    RateLimit,
    RateLimits,
    RedisSection,
    Section,
    ServiceCapacity,
)
from kdcube.protocol.errors import ConfigurationError, InvalidInput
from kdcube.protocol.ids import check_scope

__all__ = [
    "Backpressure",
    "GatewayConfig",
    "Limits",
    "PerComponent",
    "Pools",
    "RateLimit",
    "RateLimits",
    "read_gateway",
]

VARIABLE = "GATEWAY_CONFIG_JSON"
GATEWAY_MAX_BYTES = 256 * 1024

T = TypeVar("T")


def _scope(value: str) -> str:
    try:
        return check_scope("it", value)
    except InvalidInput as error:
        told = {"given": shown(value), "why": error.message}
        raise PydanticCustomError("scope", "is {given}; {why}", told) from None


Scope = Annotated[str, AfterValidator(_scope)]


def _default(section: type[T]) -> Any:
    return Field(default_factory=lambda: PerComponent[section](ingress=section(), proc=section()))


class GatewayConfig(Section):
    """The whole configuration, made of any of the shapes in which it may be written."""

    tenant: Annotated[Scope, AtRestart]
    """Whose installation it is. Everything that is stored is scoped by it."""
    project: Annotated[Scope, AtRestart]
    """Of the tenant. Everything that is stored is scoped by it."""
    profile: Profile = Profile.DEVELOPMENT
    """Which defaults hold for what is not given."""
    service_capacity: PerComponent[ServiceCapacity] = _default(ServiceCapacity)
    backpressure: PerComponent[Backpressure] = _default(Backpressure)
    rate_limits: PerComponent[RateLimits] = _default(RateLimits)
    pools: PerComponent[Pools] = _default(Pools)
    limits: PerComponent[Limits] = _default(Limits)
    redis: PerComponent[RedisSection] = _default(RedisSection)
    guarded_rest_patterns: PerComponent[Patterns] = _default(Patterns)
    """Regular expressions (RE2) of the paths that count like a turn against the rates, beside those that send one."""
    bypass_throttling_patterns: PerComponent[Patterns] = _default(Patterns)
    """Regular expressions (RE2) of the paths that are never refused for their rate, such as webhooks."""

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, given: Any) -> Any:
        resolution = resolve(given)
        if resolution.errors:
            raise ValueError("; ".join(map(str, resolution.errors)))
        return resolution.document

    @property
    def checksum(self) -> str:
        """Sixteen digits that are the same on every service which runs the same configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """As plain data, with every field: what loads again as the same configuration."""
        return self.model_dump(mode="json")

    def of(self, component: str) -> dict[str, Any]:
        """As ``document``, but as one component sees it: every section is flat."""
        document = self.document()
        return {name: value[component] if name in _PER_COMPONENT else value for name, value in document.items()}


_PER_COMPONENT = (*SECTIONS, "guarded_rest_patterns", "bypass_throttling_patterns")


@dataclass(frozen=True, slots=True)
class Valid:
    """A document that can be run."""

    config: GatewayConfig
    warnings: tuple[Finding, ...]
    origins: Mapping[Path, Origin]
    """Of every field, by its path in ``config``: given, by the profile or by default."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A document that cannot be run, and everything that is wrong with it."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


Checked: TypeAlias = Valid | Invalid


def check_gateway(text: str) -> Checked:
    """A document as text. Raises nothing."""
    try:
        return check_gateway_document(read_json(text, max_bytes=GATEWAY_MAX_BYTES))
    except UnreadableDocument as error:
        return Invalid(error.findings)


def check_gateway_document(given: Any) -> Checked:
    """A document as plain data, of a bounded size. Raises nothing."""
    resolution = resolve(given)
    config, errors = _validated(resolution)
    resolution.errors.extend(errors)
    if resolution.is_overlaid:
        # What both components replace is still to be right, but need not go together with what is not replaced.
        below = resolve(without_members(given))
        hidden = _validated(below, without="contradiction")[1]
        resolution.errors.extend(finding for finding in hidden if finding not in resolution.errors)
    if config is None or resolution.errors:
        return Invalid(tuple(resolution.errors), tuple(resolution.warnings))
    resolution.warnings.extend(
        implausible(
            config.service_capacity,
            config.rate_limits,
            config.pools,
            config.limits,
            resolution.written,
            resolution.is_given,
        )
    )
    resolution.warnings.extend(without_effect(config.document(), resolution.origins))
    return Valid(config, tuple(resolution.warnings), resolution.origins)


def _validated(resolution: Resolution, without: str | None = None) -> tuple[GatewayConfig | None, list[Finding]]:
    if not resolution.document:
        return None, []
    try:
        return GatewayConfig.model_validate(resolution.document), []
    except ValidationError as error:
        return None, findings_of(
            error,
            GatewayConfig,
            written=resolution.written,
            given=resolution.is_given,
            elsewhere=_elsewhere(),
            without=without,
        )


def _elsewhere() -> dict[str, str]:
    """Hints for fields that stand one level too high or too low."""
    inside = {field: f"it is a field of {name}" for name, section in SECTIONS.items() for field in section.model_fields}
    whole = dict.fromkeys(GatewayConfig.model_fields, "it stands beside the sections, not in one")
    components = {name: f"give it inside of a section, as in limits.{name}" for name in ("ingress", "proc")}
    return {**inside, **whole, **components}


def read_gateway(environment: Environment) -> GatewayConfig:
    """The defaults for tenant ``local`` and project ``main`` where it is not set. Raises ConfigurationError."""
    text = environment.optional(VARIABLE)
    if text is None:
        return GatewayConfig(tenant="local", project="main")
    match check_gateway(text):
        case Valid(config):
            return config
        case Invalid() as invalid:
            raise ConfigurationError(VARIABLE, str(invalid))


def gateway_warnings(environment: Environment) -> list[str]:
    """What is probably not meant in a configuration that can be run."""
    text = environment.optional(VARIABLE)
    checked = None if text is None else check_gateway(text)
    return [f"{VARIABLE}: {warning}" for warning in checked.warnings] if isinstance(checked, Valid) else []

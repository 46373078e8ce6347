"""GATEWAY_CONFIG_JSON: who may send how much, and how much the system takes on. The defaults suit a laptop.

A section may be flat, which holds for every component, or have members ``ingress`` and ``proc``, which hold for one;
both together merge. Here every section is resolved: ``gateway.limits.proc.max_queue_size``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Generic, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kdcube.config.environment import Environment, Number, Whole
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_scope
from kdcube.protocol.turns import UserType

VARIABLE = "GATEWAY_CONFIG_JSON"
_COMPONENTS = ("ingress", "proc")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServiceCapacity(_Section):
    """What one instance of a component can work on at once."""

    processes_per_instance: Whole = Field(default=1, ge=1, le=256)
    concurrent_requests_per_process: Whole = Field(default=16, ge=1, le=10_000)
    """For proc: its slots, that is turns at once, where KDCUBE_SLOTS does not say it."""
    avg_processing_time_seconds: Number = Field(default=20.0, gt=0, le=86_400)
    """First guess of a turn's time, for the expected wait, until turns have been measured."""


Share = Annotated[Number, Field(gt=0, le=1)]


class Backpressure(_Section):
    """When a turn is refused with 503: (queued + running) against capacity, per class of users."""

    capacity_buffer: Number = Field(default=0.1, ge=0, lt=1)
    """Share of the live capacity that is kept free."""
    queue_depth_multiplier: Number = Field(default=20.0, gt=0, le=100_000)
    """How many turns may wait per slot."""
    anonymous_pressure_threshold: Share = 0.6
    registered_pressure_threshold: Share = 0.8
    paid_pressure_threshold: Share = 0.9
    hard_limit_threshold: Share = 0.97
    """Beyond this privileged users are refused as well."""
    capacity_source_component: str = "chat:proc"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ladder = ("anonymous_pressure", "registered_pressure", "paid_pressure", "hard_limit")
        shares = [getattr(self, f"{step}_threshold") for step in ladder]
        if shares != sorted(shares):
            raise ValueError(
                f"thresholds must not fall in the order anonymous, registered, paid, hard limit; they are {shares}"
            )
        return self

    def threshold(self, user_type: UserType) -> float:
        """The pressure from which turns of ``user_type`` are refused."""
        match user_type:
            case UserType.ANONYMOUS:
                return self.anonymous_pressure_threshold
            case UserType.REGISTERED | UserType.EXTERNAL:
                return self.registered_pressure_threshold
            case UserType.PAID:
                return self.paid_pressure_threshold
            case UserType.PRIVILEGED:
                return self.hard_limit_threshold


class RateLimit(_Section):
    """Turns that one user may send: ``burst`` in any ``burst_window`` seconds, ``hourly`` in an hour. -1: no limit."""

    hourly: Whole = Field(ge=-1, le=1_000_000_000)
    burst: Whole = Field(ge=-1, le=1_000_000_000)
    burst_window: Whole = Field(default=60, ge=1, le=3600)


_RATES: dict[str, dict[str, int]] = {
    UserType.PRIVILEGED: {"hourly": -1, "burst": 1_000},
    UserType.PAID: {"hourly": 20_000, "burst": 600},
    UserType.REGISTERED: {"hourly": 10_000, "burst": 300},
    UserType.EXTERNAL: {"hourly": 10_000, "burst": 300},
    UserType.ANONYMOUS: {"hourly": 2_000, "burst": 60},
}


class RateLimits(_Section):
    """By class of users. What is not given keeps its default."""

    privileged: RateLimit
    paid: RateLimit
    registered: RateLimit
    external: RateLimit
    anonymous: RateLimit

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        return _merged(_RATES, given)

    def of(self, user_type: UserType) -> RateLimit:
        return getattr(self, user_type.value)


class Pools(_Section):
    """Connections to the stores that one process may open."""

    pg_pool_min_size: Whole = Field(default=1, ge=0, le=1_000)
    pg_pool_max_size: Whole = Field(default=8, ge=1, le=1_000)
    pg_max_connections: Whole | None = Field(default=None, ge=1, le=262_143)
    """What PostgreSQL accepts in all; compared with what the services may open."""
    redis_max_connections: Whole = Field(default=32, ge=1, le=100_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.pg_pool_min_size > self.pg_pool_max_size:
            raise ValueError("pg_pool_min_size is above pg_pool_max_size")
        return self


class Limits(_Section):
    """Hard limits. Sizes in bytes where the name says so, else in items."""

    max_queue_size: Whole = Field(default=2_000, ge=1, le=10_000_000)
    """Turns that may wait, over all users."""
    max_sse_connections_per_instance: Whole = Field(default=10_000, ge=1, le=1_000_000)
    max_integrations_ops_concurrency: Whole = Field(default=100, ge=1, le=100_000)
    max_body_bytes: Whole = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    max_text_chars: Whole = Field(default=100_000, ge=1, le=1_000_000)
    max_payload_bytes: Whole = Field(default=64 * 1024, ge=2, le=1024 * 1024)
    max_page_items: Whole = Field(default=100, ge=1, le=1000)
    max_title_chars: Whole = Field(default=200, ge=1, le=10_000)
    max_search_chars: Whole = Field(default=200, ge=1, le=10_000)
    max_running_turns_per_user: Whole = Field(default=8, ge=1, le=10_000)
    max_live_turns_per_user: Whole = Field(default=100, ge=1, le=1_000_000)
    """Turns of one user that wait or run, steers included."""
    max_queue_wait_seconds: Whole = Field(default=3_600, ge=1, le=7 * 86_400)
    """A turn that waits longer ends as ``failed`` with ``queue_timeout``."""


class RedisSection(_Section):
    """How long statistics stay in Valkey."""

    sse_stats_ttl_seconds: Whole = Field(default=60, ge=1, le=86_400)
    sse_stats_max_age_seconds: Whole = Field(default=120, ge=1, le=86_400)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


T = TypeVar("T")
Patterns = tuple[Annotated[str, AfterValidator(_pattern)], ...]


class PerComponent(_Section, Generic[T]):
    """One section as each component sees it."""

    ingress: T
    proc: T

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if isinstance(given, list):
            return {component: cast("list[Any]", given) for component in _COMPONENTS}
        if not isinstance(given, dict):
            return given
        section = cast("dict[str, Any]", given)
        shared = {name: value for name, value in section.items() if name not in _COMPONENTS}
        own = {name: section.get(name, {}) for name in _COMPONENTS}
        if not shared and any(isinstance(value, list) for value in own.values()):
            return {name: section.get(name, []) for name in _COMPONENTS}
        return {name: _merged(shared, value) for name, value in own.items()}


def _merged(base: Any, over: Any) -> Any:
    """``over`` laid on ``base``, object by object."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    below, above = cast("dict[str, Any]", base), cast("dict[str, Any]", over)
    return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}


def _scope(value: str) -> str:
    try:
        return check_scope("it", value)
    except InvalidInput as error:
        raise ValueError(error.message) from None


Scope = Annotated[str, AfterValidator(_scope)]


def _default(section: type[T]) -> Any:
    return Field(default_factory=lambda: PerComponent[section].model_validate({}))


class GatewayConfig(_Section):
    """The whole configuration. ``tenant_id`` and ``project_id`` are other spellings of ``tenant`` and ``project``."""

    tenant: Scope
    project: Scope
    profile: str = "development"
    service_capacity: PerComponent[ServiceCapacity] = _default(ServiceCapacity)
    backpressure: PerComponent[Backpressure] = _default(Backpressure)
    rate_limits: PerComponent[RateLimits] = _default(RateLimits)
    pools: PerComponent[Pools] = _default(Pools)
    limits: PerComponent[Limits] = _default(Limits)
    redis: RedisSection = RedisSection()
    guarded_rest_patterns: PerComponent[Patterns] = PerComponent(ingress=(), proc=())
    bypass_throttling_patterns: PerComponent[Patterns] = PerComponent(ingress=(), proc=())

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        config = dict(cast("dict[str, Any]", given))
        for name in ("tenant", "project"):
            other = config.pop(f"{name}_id", None)
            if other is not None and config.setdefault(name, other) != other:
                raise ValueError(f"{name} and {name}_id differ; give one of them")
        return config

    @property
    def checksum(self) -> str:
        """Sixteen digits that are the same on every service which runs the same configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def read_gateway(environment: Environment) -> GatewayConfig:
    """Without GATEWAY_CONFIG_JSON: the defaults, for tenant ``local`` and project ``main``."""
    given = environment.document(VARIABLE, GatewayConfig)
    return given or GatewayConfig(tenant="local", project="main")

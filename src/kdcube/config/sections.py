"""The sections of GATEWAY_CONFIG_JSON, as one component sees them. Defaults are those of ``development``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from kdcube.config.documents import shown
from kdcube.config.environment import Number, Whole
from kdcube.protocol.errors import ConfigurationError
from kdcube.protocol.turns import UserType

INGRESS_SPELLINGS = ("ingress", "rest", "chat-rest", "chat_rest")
PROC_SPELLINGS = ("proc", "processor", "worker", "chat-proc", "chat_proc")
COMPONENTS: dict[str, tuple[str, ...]] = {"ingress": INGRESS_SPELLINGS, "proc": PROC_SPELLINGS}
"""Each component and how it may be written."""


def component_of(written: str) -> str:
    """The component that is meant by any of its spellings. Raises ConfigurationError."""
    for component, spellings in COMPONENTS.items():
        if written.lower() in spellings:
            return component
    raise ConfigurationError("GATEWAY_COMPONENT", f"is {shown(written)}; give one of {', '.join(COMPONENTS)}")


QUEUE_SIZE_MAX = 10_000_000


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


T = TypeVar("T")


class PerComponent(Section, Generic[T]):
    """One section as each component sees it."""

    ingress: T
    proc: T

    def of(self, component: str) -> T:
        """As a component sees it. What has no section of its own, as proxylogin, goes by that of ingress."""
        return self.proc if component == "proc" else self.ingress


@dataclass(frozen=True, slots=True)
class Restart:
    """Marks what a running service cannot change: a new value holds from its next start."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], JsonSchemaValue]) -> JsonSchemaValue:
        return {**handler(schema), "x-applies": "restart"}


AtRestart = Restart()


def contradiction(low: tuple[str, float], high: tuple[str, float], why: str = "") -> PydanticCustomError:
    """What a validator of a section raises when the field ``low`` is above the field ``high``. Each with its value."""
    told = f"{low[0]} is {low[1]:g}, above {high[0]}, which is {high[1]:g}{why}"
    return PydanticCustomError("contradiction", "{told}", {"told": told, "low": low, "high": high, "why": why})


class ServiceCapacity(Section):
    """What one instance of a component can work on at once."""

    processes_per_instance: Annotated[Whole, Field(ge=1, le=256), AtRestart] = 1
    """Processes of one instance. Whoever starts the instances starts as many; here it sizes the connections."""
    concurrent_requests_per_process: Annotated[Whole, Field(ge=1, le=10_000)] = 16
    """For proc: its slots, that is turns at once, where KDCUBE_SLOTS does not say it."""
    avg_processing_time_seconds: Annotated[Number, Field(gt=0, le=86_400)] = 20.0
    """First guess of a turn's time, for the expected wait, until turns have been measured."""


Share = Annotated[Number, Field(gt=0, le=1)]

_CAPACITY_SOURCES = (*PROC_SPELLINGS, "chat:proc")


def _capacity_source(given: Any) -> Any:
    """Turns are run by proc, so only its heartbeats say how many can be."""
    if not isinstance(given, str):
        return given
    if given in _CAPACITY_SOURCES:
        return "chat:proc"
    if given.removeprefix("chat:") in INGRESS_SPELLINGS:
        why = "ingress runs no turns, so it has no capacity"
        raise PydanticCustomError(
            "capacity_source", "is {given}, but {why}; give chat:proc", {"given": shown(given), "why": why}
        )
    raise PydanticCustomError("capacity_source", "is {given}; give chat:proc", {"given": shown(given)})


class _CapacitySource:
    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], JsonSchemaValue]) -> JsonSchemaValue:
        return {"type": "string", "enum": ["chat:proc", *PROC_SPELLINGS]}


class Backpressure(Section):
    """When a turn is refused with 503: (queued + running) against capacity, per class of users."""

    capacity_buffer: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """How much of the live capacity is kept free."""
    queue_depth_multiplier: Annotated[Number, Field(gt=0, le=100_000)] = 20.0
    """How many turns may wait per slot."""
    anonymous_pressure_threshold: Share = 0.6
    """Pressure from which anonymous users are refused."""
    registered_pressure_threshold: Share = 0.8
    """Pressure from which registered and external users are refused."""
    paid_pressure_threshold: Share = 0.9
    """Pressure from which paid users are refused."""
    hard_limit_threshold: Share = 0.97
    """Pressure from which everybody is refused, privileged users too."""
    capacity_source_component: Annotated[str, BeforeValidator(_capacity_source), _CapacitySource()] = "chat:proc"
    """Whose heartbeats tell the live capacity. Only proc runs turns."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        steps = ("anonymous_pressure", "registered_pressure", "paid_pressure", "hard_limit")
        shares: list[tuple[str, float]] = [(f"{step}_threshold", getattr(self, f"{step}_threshold")) for step in steps]
        why = "; they must not fall in the order anonymous, registered, paid, hard limit"
        for low, high in pairwise(shares):
            if low[1] > high[1]:
                raise contradiction(low, high, why)
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


class RateLimit(Section):
    """What one user may send: ``burst`` in ``burst_window`` seconds, ``hourly`` in an hour. -1: no limit.

    A window begins with the first message in it.
    """

    hourly: Annotated[Whole, Field(ge=-1, le=1_000_000_000)]
    """Turns and guarded requests of one user in an hour. -1: no limit."""
    burst: Annotated[Whole, Field(ge=-1, le=1_000_000_000)]
    """Turns and guarded requests of one user in a ``burst_window``, which begins with the first. -1: no limit."""
    burst_window: Annotated[Whole, Field(ge=1, le=3_600)] = 60
    """What ``burst`` is counted over."""


class RateLimits(Section):
    """By class of users."""

    privileged: RateLimit = RateLimit(hourly=-1, burst=1_000)
    """Administrators."""
    paid: RateLimit = RateLimit(hourly=20_000, burst=600)
    """Users with the role ``kdcube:role:paid``."""
    registered: RateLimit = RateLimit(hourly=10_000, burst=300)
    """Anybody else who has signed in."""
    external: RateLimit = RateLimit(hourly=10_000, burst=300)
    """Users of another system, on whose behalf a program sends."""
    anonymous: RateLimit = RateLimit(hourly=2_000, burst=60)
    """Whoever has not signed in."""

    def of(self, user_type: UserType) -> RateLimit:
        return getattr(self, user_type.value)


class Pools(Section):
    """Connections to the stores that one process may open."""

    pg_pool_min_size: Annotated[Whole, Field(ge=0, le=1_000), AtRestart] = 1
    """Connections to PostgreSQL that a process keeps open."""
    pg_pool_max_size: Annotated[Whole, Field(ge=1, le=1_000), AtRestart] = 8
    """Connections to PostgreSQL that a process opens at most."""
    pg_max_connections: Annotated[Whole, Field(ge=1, le=262_143)] | None = None
    """What PostgreSQL accepts in all; compared with what the services may open. null: not compared."""
    redis_max_connections: Annotated[Whole, Field(ge=1, le=100_000), AtRestart] = 32
    """Connections to Valkey that a process opens at most. It opens three or four, whatever the load."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        smallest, largest = ("pg_pool_min_size", self.pg_pool_min_size), ("pg_pool_max_size", self.pg_pool_max_size)
        if smallest[1] > largest[1]:
            raise contradiction(smallest, largest)
        if self.pg_max_connections is not None and largest[1] > self.pg_max_connections:
            raise contradiction(largest, ("pg_max_connections", self.pg_max_connections))
        return self


def _zero_is_no_cap(given: Any) -> Any:
    return QUEUE_SIZE_MAX if given == 0 and not isinstance(given, bool) else given


class Limits(Section):
    """Hard limits. Sizes in bytes where the name says so, else in items."""

    max_queue_size: Annotated[Whole, Field(ge=0, le=QUEUE_SIZE_MAX), BeforeValidator(_zero_is_no_cap)] = 2_000
    """Turns that may wait, over all users. 0 stands for the maximum."""
    max_sse_connections_per_instance: Annotated[Whole, Field(ge=1, le=1_000_000)] = 10_000
    """Streams that one ingress process keeps open."""
    max_integrations_ops_concurrency: Annotated[Whole, Field(ge=1, le=100_000)] = 100
    """Operations of bundles that one proc process runs at once."""
    max_public_operations_per_minute: Annotated[Whole, Field(ge=0, le=1_000_000)] = 120
    """Calls of public operations in a minute by one address that has not signed in. 0: no limit."""
    max_body_bytes: Annotated[Whole, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Body of a request."""
    max_text_chars: Annotated[Whole, Field(ge=1, le=1_000_000)] = 100_000
    """Text of a message."""
    max_payload_bytes: Annotated[Whole, Field(ge=2, le=1024 * 1024)] = 64 * 1024
    """``payload`` of a message, as JSON."""
    max_page_items: Annotated[Whole, Field(ge=1, le=1000)] = 100
    """Items of one page of a list."""
    max_title_chars: Annotated[Whole, Field(ge=1, le=10_000)] = 200
    """Title of a conversation."""
    max_search_chars: Annotated[Whole, Field(ge=1, le=10_000)] = 200
    """What conversations are searched for."""
    max_running_turns_per_user: Annotated[Whole, Field(ge=1, le=10_000)] = 8
    """Turns of one user that run at once; the others wait."""
    max_live_turns_per_user: Annotated[Whole, Field(ge=1, le=1_000_000)] = 100
    """Turns of one user that wait or run, steers included."""
    max_anonymous_users_per_address: Annotated[Whole, Field(ge=0, le=1_000_000)] = 20
    """Anonymous users of one address together have so many times the rates of one of them. 0: no limit."""
    max_sign_ins_per_address: Annotated[Whole, Field(ge=1, le=100_000)] = 100
    """Sign-ins that one address may begin at once, and as many again in 40 seconds. Offices share one."""
    max_queue_wait_seconds: Annotated[Whole, Field(ge=1, le=7 * 86_400)] = 3_600
    """A turn that waits longer ends as ``failed`` with ``queue_timeout``."""
    retention_days: Annotated[Whole, Field(ge=0, le=36_500)] = 0
    """Conversations without activity for so many days are erased, by proc. 0 keeps them."""


class RedisSection(Section):
    """How long statistics stay in Valkey."""

    sse_stats_ttl_seconds: Annotated[Whole, Field(ge=1, le=86_400)] = 60
    """How long the figures of a process are kept after it last wrote them."""
    sse_stats_max_age_seconds: Annotated[Whole, Field(ge=1, le=86_400)] = 120
    """How long a process that stopped writing is still listed, as stale."""

"""What is allowed, but probably not meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kdcube.config.documents import Finding, Path, dotted
from kdcube.config.findings import Written
from kdcube.config.sections import COMPONENTS, Limits, PerComponent, Pools, RateLimits, ServiceCapacity
from kdcube.protocol.turns import UserType


def implausible(
    capacity: PerComponent[ServiceCapacity],
    rates: PerComponent[RateLimits],
    pools: PerComponent[Pools],
    limits: PerComponent[Limits],
    written: Written,
    given: Callable[[Path], bool],
) -> list[Finding]:
    """Warnings, each once. How many instances run is not known here, so of some nothing more can be said."""
    found = dict.fromkeys([*_connections(capacity, pools), *_rates(rates, written, given), *_limits(limits, written)])
    return list(found)


def _connections(capacity: PerComponent[ServiceCapacity], pools: PerComponent[Pools]) -> Iterator[Finding]:
    most = [pool.pg_max_connections for pool in (pools.ingress, pools.proc) if pool.pg_max_connections is not None]
    if not most:
        return
    parts = [(name, capacity.of(name).processes_per_instance, pools.of(name).pg_pool_max_size) for name in COMPONENTS]
    at_once = sum(processes * size for _, processes, size in parts)
    if at_once > min(most):
        told = " + ".join(f"{processes} x {size} of {name}" for name, processes, size in parts)
        yield Finding(
            "pools.pg_max_connections",
            f"is {min(most)}, but one instance of each service may open {at_once} connections ({told})",
        )


def _rates(rates: PerComponent[RateLimits], written: Written, given: Callable[[Path], bool]) -> Iterator[Finding]:
    for component in COMPONENTS:
        for user_type in UserType:
            rate, stem = rates.of(component).of(user_type), ("rate_limits", component, user_type.value)
            hourly, burst = dotted(written((*stem, "hourly"))), dotted(written((*stem, "burst")))
            if rate.hourly == 0 or rate.burst == 0:
                yield Finding(hourly if rate.hourly == 0 else burst, f"is 0: {user_type} users can send nothing")
            elif -1 < rate.hourly < rate.burst:
                if given((*stem, "hourly")) and not given((*stem, "burst")):
                    yield Finding(hourly, f"is {rate.hourly}, below burst ({rate.burst}), which is never reached")
                else:
                    yield Finding(burst, f"is {rate.burst}, above hourly ({rate.hourly}), so it is never reached")


def _limits(limits: PerComponent[Limits], written: Written) -> Iterator[Finding]:
    for component in COMPONENTS:
        limit, stem = limits.of(component), ("limits", component)
        running, live = limit.max_running_turns_per_user, limit.max_live_turns_per_user
        if running > live:
            where = dotted(written((*stem, "max_live_turns_per_user")))
            yield Finding(where, f"is {live}, below max_running_turns_per_user ({running}), which is never reached")
        if limit.max_text_chars > limit.max_body_bytes:
            where = dotted(written((*stem, "max_text_chars")))
            yield Finding(
                where,
                f"is {limit.max_text_chars}, above max_body_bytes ({limit.max_body_bytes}), so it is never reached",
            )

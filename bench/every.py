"""All benches, in the order of the report."""

from __future__ import annotations

from bench import (
    admissions,
    bundle_hosts,
    capacity,
    commits,
    gateway,
    idle_streams,
    isolation,
    latency,
    measuring,
    operations,
    profile,
    redis_connection,
    releases,
    settling,
    startup,
    streams,
    tracing,
    turns,
)
from bench.report import Bench

BENCHES: tuple[Bench, ...] = tuple(
    module.BENCH
    for module in (
        turns,
        latency,
        profile,
        measuring,
        tracing,
        streams,
        idle_streams,
        admissions,
        capacity,
        gateway,
        settling,
        commits,
        bundle_hosts,
        operations,
        releases,
        isolation,
        redis_connection,
        startup,
    )
)

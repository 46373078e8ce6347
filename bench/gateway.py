"""What the gateway costs for each admission: rates, pressure, who calls, header fields."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.alone import run_alone
from bench.report import Bench, Effort, Section, Spread, Table, spread
from bench.settling import IN_FLIGHT, drive
from bench.stores import BUNDLE, EPOCH, KEYS, publish_epoch, running_valkey
from bench.turn_envelopes import envelope
from starlette.requests import Request

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.identity.addresses import Addresses, network_of
from kdcube.gateway.identity.sessions import Sessions
from kdcube.gateway.limits import admission_limits
from kdcube.gateway.rate_fields import rate_fields
from kdcube.protocol.ids import new_id
from kdcube.redis.admission import Admission, Admitted
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.rates import HOUR_S, Left, Sender, Window
from kdcube.redis.workers import Workers

BARE = "admission, no rates"
SENDERS = {
    BARE: Sender(rated=False),
    "with the rates of a user": Sender(),
    "with those of an address too": Sender("9.9.9.9"),
}
LEFT: Left = (Window("burst", 60, 60, 12, 31.4), Window("hourly", 2_000, HOUR_S, 1_234, 3_012.7))
_FIELDS = [(b"host", b"bench"), (b"accept", b"*/*"), (b"user-agent", b"bench"), (b"x-forwarded-for", b"9.9.9.9")]


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds an admission."""

    ingress_us: Spread
    valkey_us: Spread | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    admissions: dict[str, Cost]
    parts: dict[str, Cost]


async def measure(effort: Effort) -> Gateway:
    rounds: list[dict[str, tuple[float, float]]] = []
    parts: list[dict[str, float]] = []
    async with running_valkey() as port, open_connection(f"redis://127.0.0.1:{port}/0", name="bench") as connection:
        for round_ in range(effort.of(5, 1)):
            turns = effort.of(4000, 128)
            measured = {name: await _admit(connection, sender, turns) for name, sender in SENDERS.items()}
            if round_ or effort.quick:  # the first one warms up
                rounds.append(measured)
                parts.append(_parts(effort.of(20_000, 200)))
    return Gateway(
        {
            name: Cost(spread(one[name][0] for one in rounds), spread(one[name][1] for one in rounds))
            for name in SENDERS
        },
        {name: Cost(spread(one[name] for one in parts)) for name in parts[0]},
    )


async def _admit(connection: Connection, sender: Sender, turns: int) -> tuple[float, float]:
    """All limits as an installation has them, and room for everything."""
    await connection.call("FLUSHALL")
    await publish_epoch(connection)
    await Workers(connection, KEYS).beat("bench", slots=turns, info={})
    limits = admission_limits(GatewayConfig(tenant="bench", project="main"))
    roomy = {kind: replace(of, burst=10**6, hourly=10**6) for kind, of in limits.classes.items()}
    admission = Admission(connection, KEYS, replace(limits, classes=roomy, max_queue_size=10**9))

    async def admit(_: int) -> None:
        outcome = await admission.admit(envelope(bundle_id=BUNDLE), epoch=EPOCH, nonce=new_id(), sender=sender)
        assert isinstance(outcome, Admitted), outcome

    return await drive(connection, admit, range(turns), turns)


def _parts(times: int) -> dict[str, float]:
    sessions = Sessions("s" * 40, "bench", "main")
    session_id = sessions.open_anonymous().session_id
    addresses = Addresses()
    request = Request({"type": "http", "client": ("9.9.9.9", 1), "headers": _FIELDS})

    def identity() -> None:
        assert sessions.anonymous(session_id) is not None
        network_of(addresses.of(request))

    return {
        "who calls, and from where": _us(identity, times),
        "header fields": _us(lambda: rate_fields(LEFT), times),
    }


def _us(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def section(result: Gateway) -> Section:
    bare = result.admissions[BARE]
    rows = [[name, str(cost.ingress_us), str(cost.valkey_us)] for name, cost in result.admissions.items()]
    rows += [[name, str(cost.ingress_us), ""] for name, cost in result.parts.items()]
    full = list(result.admissions.values())[-1]
    assert bare.valkey_us is not None and full.valkey_us is not None
    parts = sum(part.ingress_us.median for part in result.parts.values())
    ingress_us = full.ingress_us.median - bare.ingress_us.median + parts
    valkey_us = full.valkey_us.median - bare.valkey_us.median
    return Section(
        title="The gateway",
        how=(
            f"The admission script with {IN_FLIGHT} calls in flight, without rates, with those of a user, and with "
            "those of an address as well, as for anonymous users; pressure is checked in all. Below it what ingress "
            "does for each request besides: it proves the session and finds the address, and writes RateLimit and "
            f"RateLimit-Policy. In all this adds {ingress_us:.0f} µs to ingress and {valkey_us:.0f} µs to Valkey."
        ),
        tables=(Table(("CPU µs an admission", "ingress", "Valkey"), rows),),
    )


BENCH = Bench("gateway", Gateway, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

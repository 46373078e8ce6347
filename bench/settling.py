"""What a turn costs on its way through the queue: CPU of proc's side for claiming, opening and settling it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.alone import run_alone
from bench.report import Bench, Chart, Effort, Section, Spread, Table, Target, spread
from bench.stores import BUNDLE, EPOCH, KEYS, publish_epoch, running_valkey
from bench.turn_envelopes import envelope

from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.heads import encode_head
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnState, UserType
from kdcube.redis.admission import Admission, AdmissionLimits, Admitted, ClassLimits
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.eventlog import Appended, EventLogs
from kdcube.redis.queue import Claim, Opened, Queue
from kdcube.redis.workers import Workers

IN_FLIGHT = 64
CLAIMED_AT_ONCE = (1, 16)
LINE = encode_line(Kind.COMPLETE, "chat.complete", ts_ms=1_700_000_000_000, attempt=1, data={"answer": "word " * 100})
DELTA = encode_line(Kind.DELTA, "chat.delta", ts_ms=1_700_000_000_000, attempt=1, delta={"text": "word ", "index": 1})
APPENDED_AT_ONCE = (1, 20)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """CPU microseconds a turn."""

    client_us: Spread
    valkey_us: Spread
    """Of the server's main thread, its protocol included."""


@dataclass(frozen=True, slots=True)
class Settling:
    steps: dict[str, Step]
    claim_and_settle_us: dict[str, Spread]
    """Client CPU of a claim and of closing the turn, by the number of turns that a claim takes."""


Figures = dict[str, tuple[float, float]]


async def measure(effort: Effort) -> Settling:
    rounds: list[Figures] = []
    async with running_valkey() as port, open_connection(f"redis://127.0.0.1:{port}/0", name="bench") as connection:
        for round_ in range(effort.of(4, 1)):
            measured = await _round(connection, effort.of(4000, 128))
            if round_ or effort.quick:  # the first one warms up
                rounds.append(measured)
    steps = {
        name: Step(spread(one[name][0] for one in rounds), spread(one[name][1] for one in rounds)) for name in rounds[0]
    }
    both = {
        f"claim {size}": spread(one[f"claim {size}"][0] + one["settle"][0] for one in rounds)
        for size in CLAIMED_AT_ONCE
    }
    return Settling(steps, both)


async def _round(connection: Connection, turns: int) -> Figures:
    await connection.call("FLUSHALL")
    await publish_epoch(connection)
    await Workers(connection, KEYS).beat("bench", slots=turns, info={})
    none = ClassLimits(-1, 60, -1, pressure_threshold=1e9)
    admission = Admission(connection, KEYS, AdmissionLimits(dict.fromkeys(UserType, none), 1e9, 0.0, 1000.0, 10**9))
    queue, logs = Queue(connection, KEYS), EventLogs(connection, KEYS)
    claims: list[Claim] = []
    figures: Figures = {}

    async def admit(_: int) -> None:
        outcome = await admission.admit(envelope(bundle_id=BUNDLE), epoch=EPOCH, nonce=new_id())
        assert isinstance(outcome, Admitted), outcome

    async def claim(size: int) -> None:
        ids = [new_id() for _ in range(size)]
        claimed = await queue.claim(epoch=EPOCH, worker_id="bench", revision="1", room={BUNDLE: size}, claim_ids=ids)
        assert isinstance(claimed, list) and len(claimed) == size, claimed
        claims.extend(claimed)

    async def start(one: Claim) -> None:
        head = encode_head(one.envelope, "0123456789ab")
        opened = await queue.start(one.envelope, one.claim_id, epoch=EPOCH, attempt=1, head=head, line=LINE)
        assert isinstance(opened, Opened), opened

    async def settle(one: Claim) -> None:
        assert await queue.finish(one.envelope, None, epoch=EPOCH, state=TurnState.COMPLETED, line=LINE)

    figures["admit"] = await drive(connection, admit, range(turns), turns)
    for size in CLAIMED_AT_ONCE:
        share = turns // 2
        figures[f"claim {size}"] = await drive(connection, claim, [size] * (share // size), share)
    figures["open the log"] = await drive(connection, start, claims, len(claims))
    for seq, events in enumerate(APPENDED_AT_ONCE, 1):

        async def append(one: Claim, seq: int = seq, events: int = events) -> None:
            appended = await logs.append(
                one.envelope.turn_id,
                one.claim_id,
                epoch=EPOCH,
                seq=seq,
                tail=sum(APPENDED_AT_ONCE[: seq - 1]) + 1,
                count=events,
                lines=b"\n".join([DELTA] * events),
            )
            assert isinstance(appended, Appended), appended

        figures[f"append {events}"] = await drive(connection, append, claims, len(claims))
    figures["settle"] = await drive(connection, settle, claims, len(claims))
    return figures


async def drive(
    connection: Connection, call: Callable[[T], Awaitable[None]], items: Sequence[T] | range, turns: int
) -> tuple[float, float]:
    """(client, server) CPU microseconds a turn, 64 calls in flight."""
    todo = iter(items)

    async def worker() -> None:
        for item in todo:
            await call(item)  # pyright: ignore

    server_s, client_s = await _server_s(connection), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    client_s, server_s = time.process_time() - client_s, await _server_s(connection) - server_s
    return client_s / turns * 1e6, server_s / turns * 1e6


async def _server_s(connection: Connection) -> float:
    text: bytes = await connection.call("INFO", "cpu")
    facts = dict(row.split(":", 1) for row in text.decode().splitlines() if ":" in row)
    return float(facts["used_cpu_user_main_thread"]) + float(facts["used_cpu_sys_main_thread"])


def section(result: Settling) -> Section:
    largest = f"claim {max(CLAIMED_AT_ONCE)}"
    return Section(
        title="Claim and settle",
        how=(
            f"The scripts of a turn with {IN_FLIGHT} calls in flight through one connection, each turn of another "
            f"user. "
            "*Claim N*: one call claims N turns. *Append N*: one call adds N events to a log. *Settle* closes the "
            "log, tells the user's feed, frees the conversation and "
            f"moves on what waits. Claim and settle together cost proc {result.claim_and_settle_us['claim 1']} µs a "
            f"turn, and "
            f"{result.claim_and_settle_us[largest]} when a claim takes {max(CLAIMED_AT_ONCE)}."
        ),
        tables=(
            Table(
                ("CPU µs a turn", "client (proc, or ingress for admit)", "Valkey"),
                [[name, str(step.client_us), str(step.valkey_us)] for name, step in result.steps.items()],
            ),
        ),
        charts=(
            Chart(
                "settling",
                "CPU microseconds a turn, by script",
                list(result.steps),
                {
                    "client": [step.client_us.median for step in result.steps.values()],
                    "Valkey": [step.valkey_us.median for step in result.steps.values()],
                },
            ),
        ),
        targets=(Target("claim and settle in proc", 100, result.claim_and_settle_us["claim 1"].median, "µs of CPU"),),
    )


BENCH = Bench("settling", Settling, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

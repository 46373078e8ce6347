"""Events per CPU second through one ingress process to 1,000 streams, beside sse-starlette and raw ASGI.

The bench plays proc: it appends to the logs of running turns, waits until all clients have everything, and again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from bench.alone import run_alone
from bench.cpu import process_cpu_s
from bench.report import Bench, Chart, Effort, Section, Spread, Table, Target, digits, spread
from bench.stores import IngressAlone, running_ingress
from bench.subjects import (
    BARE,
    PEER_EVENT,
    RAW_ASGI,
    SSE_STARLETTE,
    TURN_STREAMS,
    USER_STREAMS,
    Subject,
    one_turn,
    own_turns,
    peer_subject,
)

from kdcube.redis.connection import Connection, open_connection

Opening = Callable[[IngressAlone, Connection, int], AbstractAsyncContextManager[list[Subject]]]
BATCHES = {"one by one": 1, "in batches of ten": 10}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of the serving process for each event that a client got."""

    event_us: Spread
    times_sse_starlette: float
    """How many times fewer than sse-starlette, by the medians of the same rounds."""


@dataclass(frozen=True, slots=True)
class Fanout:
    streams: int
    frame_bytes: int
    own_turns: dict[str, dict[str, Cost]]
    """By way of publishing, then by server: each stream has a turn of its own."""
    one_turn: dict[str, dict[str, Cost]]
    """All streams show the same turn."""


async def measure(effort: Effort) -> Fanout:
    size = effort.of(1000, 40)
    async with running_ingress() as ingress, open_connection(ingress.redis_url, name="bench") as connection:
        shared = await _scenario(effort, ingress, connection, one_turn, size, channels=1)
        own = await _scenario(effort, ingress, connection, own_turns, size, channels=size)
    return Fanout(size, len(PEER_EVENT) + 40, own, shared)


async def _scenario(
    effort: Effort, ingress: IngressAlone, connection: Connection, ours: Opening, size: int, channels: int
) -> dict[str, dict[str, Cost]]:
    figures: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(peer_subject(name, ingress.redis_url, connection, size, channels))
            for name in (SSE_STARLETTE, RAW_ASGI, BARE)
        ]
        subjects = [*await stack.enter_async_context(ours(ingress, connection, size)), *peers]
        for _ in range(effort.of(4, 1)):
            for way, batch in BATCHES.items():
                for subject in subjects:
                    each = await _cost_us(subject, size, batch, repeats=effort.of(12 // min(batch, 3), 1))
                    figures.setdefault(way, {}).setdefault(subject.name, []).append(each)
    return {way: {name: _cost(name, costs) for name in costs} for way, costs in figures.items()}


def _cost(name: str, costs: dict[str, list[float]]) -> Cost:
    ratios = [theirs / ours for ours, theirs in zip(costs[name], costs[SSE_STARLETTE], strict=True)]
    return Cost(spread(costs[name]), statistics.median(ratios))


async def _cost_us(subject: Subject, size: int, batch: int, repeats: int) -> float:
    before = process_cpu_s(subject.pid)
    for _ in range(repeats):
        wanted = subject.counter.received + size * batch
        await subject.publish(batch)
        await subject.counter.reach(wanted)
    return (process_cpu_s(subject.pid) - before) / (size * batch * repeats) * 1e6


_HOW = """{streams:,} streams in real sockets; {bytes} bytes an event. *A turn each*: every stream belongs to a user
of its own, whose turn is published by itself, as in chats. *One turn*: all streams show the same turn, as when an event
goes to many. The bench plays proc: it appends to the logs in Valkey, waits until all clients have everything, and
appends again. All servers run in uvicorn (uvloop, httptools), each in its process, and are measured one after the
other in each round; the ratio is the median of the rounds' ratios. CPU is that of the serving process, from the
channel's message to the socket.

- **KDCube, user streams** (`GET /sse/stream`): hears the message, checks that it joins what is known of the log, keeps
  the lines for whoever comes later, frames each and writes; every event carries a cursor by which any replica resumes.
- **KDCube, turn streams** (`GET /turns/ID/stream`): the same for one turn.
- **sse-starlette**: hears the message by the same subscriber and puts it into a queue of the stream, whose generator
  yields one `ServerSentEvent` after the other. No log, no cursor, no resuming. It sends each event by itself, also
  those that came together.
- **raw ASGI**: the same with a loop around `send` that joins bytes; events that came together leave together.
- **bare protocol**: no server but a floor. It writes the frame to the socket in the callback that heard the message:
  no uvicorn, no ASGI, no chunks, no task, and whoever does not read fast enough is nobody's concern."""
_NAMES = (USER_STREAMS, TURN_STREAMS, SSE_STARLETTE, RAW_ASGI, BARE)


def section(result: Fanout) -> Section:
    shared, own = result.one_turn, result.own_turns
    single, batched = BATCHES
    return Section(
        title="Events through one ingress process",
        how=_HOW.format(streams=result.streams, bytes=result.frame_bytes),
        tables=(_table("A turn each", own), _table("One turn", shared)),
        charts=(
            Chart(
                "streams",
                "Events per CPU second of one process, a turn each",
                list(BATCHES),
                {name: [1e6 / own[way][name].event_us.median for way in BATCHES] for name in _NAMES},
            ),
        ),
        targets=tuple(
            Target(
                f"user streams, {what}, {way}", wanted, costs[way][USER_STREAMS].times_sse_starlette, "x", at_least=True
            )
            for what, costs in (("a turn each", own), ("one turn", shared))
            for way, wanted in ((single, 3), (batched, 5))
        ),
    )


def _table(caption: str, costs: dict[str, dict[str, Cost]]) -> Table:
    columns = [text for way in BATCHES for text in (f"{way}: µs an event", "events per CPU second", "x sse-starlette")]
    rows: list[list[str]] = []
    for name in _NAMES:
        row = [name]
        for way in BATCHES:
            cost = costs[way][name]
            row += [str(cost.event_us), f"{1e6 / cost.event_us.median:,.0f}", digits(cost.times_sse_starlette)]
        rows.append(row)
    return Table((caption, *columns), rows)


BENCH = Bench("streams", Fanout, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

"""Events per CPU second through one ingress process to 1,000 streams, beside sse-starlette and raw ASGI.

Each stream belongs to a user of its own, who has a running turn: an event is published once, in one log, and goes to one
stream. The bench plays proc: it appends to all logs, waits until all clients have all of it, and appends again.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.alone import run_alone
from bench.cpu import process_cpu_s
from bench.report import Bench, Chart, Effort, Section, Spread, Table, Target, digits, spread
from bench.stores import running_ingress
from bench.subjects import (
    PEER_EVENT,
    RAW_ASGI,
    SSE_STARLETTE,
    TURN_STREAMS,
    USER_STREAMS,
    Subject,
    ingress_subjects,
    peer_subject,
)
from kdcube.redis.connection import open_connection

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
    costs: dict[str, dict[str, Cost]]
    """By way of publishing, then by server."""


async def measure(effort: Effort) -> Fanout:
    size = effort.of(1000, 40)
    figures: dict[str, dict[str, list[float]]] = {}
    async with running_ingress() as ingress, open_connection(ingress.redis_url, name="bench") as connection:
        async with AsyncExitStack() as stack:
            subjects = [
                *await ingress_subjects(ingress, connection, size),
                *[
                    await stack.enter_async_context(peer_subject(name, ingress.redis_url, connection, size))
                    for name in (SSE_STARLETTE, RAW_ASGI)
                ],
            ]
            for _ in range(effort.of(5, 1)):
                for way, batch in BATCHES.items():
                    for subject in subjects:
                        each = await _cost_us(subject, size, batch, repeats=effort.of(12 // min(batch, 3), 1))
                        figures.setdefault(way, {}).setdefault(subject.name, []).append(each)
    return Fanout(
        size,
        len(PEER_EVENT) + 40,
        {way: {name: _cost(name, costs) for name in costs} for way, costs in figures.items()},
    )


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


_HOW = """{streams:,} streams of as many users, in real sockets, each with a running turn of its own; {bytes} bytes an
event. All servers run in uvicorn (uvloop, httptools), each in its process, and are measured in turn, round by round; the
ratio is the median of the rounds' ratios. CPU is that of the serving process from the channel's message to the socket.

- **KDCube, user streams** (`GET /sse/stream`): hears the message, checks that it joins what is known of the log, keeps
  the lines for whoever comes later, frames each and writes; every event carries a cursor with which any replica resumes.
- **KDCube, turn streams** (`GET /turns/ID/stream`): the same for one turn.
- **sse-starlette**: hears the message by the same subscriber and puts it into a queue of the stream, whose generator
  yields one `ServerSentEvent` after the other. No log, no cursor, no resuming. It sends each event by itself, also those
  that came together.
- **raw ASGI**: the same with a loop around `send` that joins bytes; events that came together leave together."""


def section(result: Fanout) -> Section:
    names = (USER_STREAMS, TURN_STREAMS, SSE_STARLETTE, RAW_ASGI)
    single, batched = (result.costs[way] for way in BATCHES)
    rows = [
        [
            name,
            *(
                text
                for costs in (single, batched)
                for text in (
                    str(costs[name].event_us),
                    f"{1e6 / costs[name].event_us.median:,.0f}",
                    digits(costs[name].times_sse_starlette),
                )
            ),
        ]
        for name in names
    ]
    columns = [text for way in BATCHES for text in (f"{way}: µs an event", "events per CPU second", "x sse-starlette")]
    return Section(
        title="Events through one ingress process",
        how=_HOW.format(streams=result.streams, bytes=result.frame_bytes),
        tables=(Table(("", *columns), rows),),
        charts=(
            Chart(
                "streams",
                "Events per CPU second of one process",
                list(BATCHES),
                {name: [1e6 / result.costs[way][name].event_us.median for way in BATCHES] for name in names},
            ),
        ),
        targets=(
            Target("one by one, user streams", 3, single[USER_STREAMS].times_sse_starlette, "x", at_least=True),
            Target("in batches of ten, user streams", 5, batched[USER_STREAMS].times_sse_starlette, "x", at_least=True),
        ),
    )


BENCH = Bench("streams", Fanout, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

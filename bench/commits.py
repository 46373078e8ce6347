"""What each commit of a turn costs, in the client and in PostgreSQL: admitted, started, finished; alone, in groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
from bench.alone import run_alone
from bench.cpu import process_cpu_s, tree
from bench.report import Bench, Effort, Section, Spread, Table, digits, spread
from bench.stores import EPOCH, Database, running_postgres
from bench.turn_envelopes import envelope

from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Admission, Ending, Finished, Inserted, Started, StartRequest
from kdcube.postgres.turns import Turns
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnEnvelope, TurnState

IN_FLIGHT = (1, 64)
_STEPS = ("admit", "start", "finish")
_CLAIM = new_id()
_ANSWER = "word " * 100


@dataclass(frozen=True, slots=True)
class Commit:
    """One kind of commit with so many under way."""

    step: str
    in_flight: int
    client_us: Spread
    server_us: Spread
    """CPU of all of PostgreSQL's processes."""
    batch: float
    """Turns in one transaction, on average."""
    per_s: Spread


@dataclass(frozen=True, slots=True)
class Commits:
    commits: list[Commit]


async def measure(effort: Effort) -> Commits:
    figures: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    async with running_postgres() as server, open_database(server.dsn, max_size=8, name="bench") as database:
        await Epochs(database, "bench", "main").publish(EPOCH)
        async with Turns(database, "bench", "main") as turns:
            for round_ in range(effort.of(4, 1)):
                for in_flight in IN_FLIGHT:
                    some = [envelope() for _ in range(effort.of(400 if in_flight == 1 else 8000, 64))]
                    for step, call in _calls(turns).items():
                        measured = await _drive(server, some, call, in_flight)
                        if round_ or effort.quick:  # the first one warms up
                            figures.setdefault((step, in_flight), []).append(measured)
    return Commits(
        [
            Commit(step, in_flight, spread(client), spread(cpu), spread(batch).median, spread(per_s))
            for (step, in_flight), rounds in figures.items()
            for client, cpu, batch, per_s in [zip(*rounds, strict=True)]
        ]
    )


def _calls(turns: Turns) -> dict[str, Callable[[TurnEnvelope], Awaitable[None]]]:
    async def admit(one: TurnEnvelope) -> None:
        assert isinstance(await turns.admit(Admission(one, 1, 1)), Inserted)

    async def start(one: TurnEnvelope) -> None:
        assert isinstance(await turns.start(StartRequest(one, 1, 1, _CLAIM, "worker", "1", EPOCH)), Started)

    async def finish(one: TurnEnvelope) -> None:
        ending = Ending(
            turn_id=one.turn_id,
            claim_id=_CLAIM,
            state=TurnState.COMPLETED,
            ended_ms=2,
            text_by_marker={"answer": _ANSWER},
        )
        assert isinstance(await turns.finish(ending), Finished)

    return {"admit": admit, "start": start, "finish": finish}


async def _drive(
    server: Database, turns: Sequence[TurnEnvelope], call: Callable[[TurnEnvelope], Awaitable[None]], in_flight: int
) -> tuple[float, float, float, float]:
    """(client CPU us, server CPU us, turns a transaction, turns/s)."""
    todo = iter(turns)

    async def worker() -> None:
        for one in todo:
            await call(one)

    transactions, server_s = await _transactions(server), _server_s(server)
    client_s, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    took_s, client_s, server_s = (
        time.perf_counter() - began, time.process_time() - client_s, _server_s(server) - server_s
    )  # fmt: skip
    committed = await _transactions(server) - transactions
    count = len(turns)
    return client_s / count * 1e6, server_s / count * 1e6, count / max(committed, 1), count / took_s


def _server_s(server: Database) -> float:
    return sum(map(process_cpu_s, tree(server.pid)))


async def _transactions(server: Database) -> int:
    """Transactions that wrote. Whoever counts gets a connection of its own, which takes one of its own."""
    connection = await asyncpg.connect(server.dsn)
    try:
        return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
    finally:
        await connection.close()


def section(result: Commits) -> Section:
    at_load = {one.step: one for one in result.commits if one.in_flight == max(IN_FLIGHT)}
    total = sum(one.client_us.median + one.server_us.median for one in at_load.values())
    return Section(
        title="The three commits of a turn",
        how=(
            "One process against one PostgreSQL that syncs to the disk; a turn of a conversation of its own, an "
            "answer of "
            "500 characters. With one turn at a time each is a transaction; with 64 at once, what arrives while a "
            "commit is "
            f"under way goes together into the next. Together they cost {digits(total)} µs of CPU a turn at 64."
        ),
        tables=(
            Table(
                ("commit", "under way", "client, CPU µs", "PostgreSQL, CPU µs", "turns a transaction", "turns/s"),
                [
                    [
                        one.step,
                        str(one.in_flight),
                        str(one.client_us),
                        str(one.server_us),
                        digits(one.batch),
                        str(one.per_s),
                    ]
                    for one in sorted(result.commits, key=lambda one: (_STEPS.index(one.step), one.in_flight))
                ],
            ),
        ),
    )


BENCH = Bench("commits", Commits, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

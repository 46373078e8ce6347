"""The grouped statements touch the rows they are asked for, whatever PostgreSQL knew when it planned them.

A plan is made early, on tables that are empty or tiny, and kept while they grow under the first load.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from kdcube.postgres.admitting import encode_admission
from kdcube.postgres.database import server_settings
from kdcube.postgres.finishing import encode_ending
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import Ending
from kdcube.postgres.rows import columns
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio

BATCH = 20
MANY = 1000
PER_ITEM = 12
"""Rows of turns and conversations that a statement may look at for each item, with room to spare."""


def literal(value: Any) -> str:
    """An argument of EXECUTE; its type is the statement's to say."""
    if isinstance(value, list):
        return "'{" + ",".join(map(element, value)) + "}'"
    return "null" if value is None else f"'{value}'"


def element(value: Any) -> str:
    if value is None:
        return "null"
    text = f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("'", "''") + '"'


def rows_touched(plan: dict[str, Any]) -> float:
    own = 0.0
    if plan.get("Relation Name") in {"turns", "conversations"} and "Scan" in plan["Node Type"]:
        removed = sum(value for name, value in plan.items() if name.startswith("Rows Removed"))
        own = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return own + sum(map(rows_touched, plan.get("Plans", [])))


class Statements:
    """The grouped statements, prepared on a connection that keeps the first plan of each."""

    def __init__(self, world: World, connection: asyncpg.Connection) -> None:
        self._world = world
        self._connection = connection

    async def prepare(self) -> None:
        """Plans them all: a plan is made when a statement is executed first."""
        sql = load_queries("turns")
        for name in ("admit_turns", "start_turns", "start_facts", "finish_turns", "finish_facts", "existing_turns"):
            await self._connection.execute(f"prepare {name} as {sql[name]}")
        await self.run(["early"])

    async def run(self, turn_ids: list[str]) -> dict[str, float]:
        """Admits, starts and ends new turns; gives the rows that each statement touched."""
        world = self._world
        admissions = [encode_admission(world.admission(turn_id, f"c-{turn_id}")).row for turn_id in turn_ids]
        starts = [(turn_id, f"c-{turn_id}", "claim", "w", "v", None, False, world.epoch, 0) for turn_id in turn_ids]
        endings = [
            encode_ending(
                Ending(turn_id=turn_id, claim_id="claim", state=TurnState.COMPLETED, ended_ms=1, bundle_state={"k": 1})
            ).row
            for turn_id in turn_ids
        ]
        return {
            "admit_turns": await self._touched("admit_turns", *columns(admissions, 17)),
            "existing_turns": await self._touched("existing_turns", turn_ids),
            "start_turns": await self._touched("start_turns", *columns(starts, 9)),
            "start_facts": await self._touched(
                "start_facts", turn_ids, [0 for _ in turn_ids], [world.epoch for _ in turn_ids]
            ),
            "finish_turns": await self._touched("finish_turns", *columns(endings, 13)),
            "finish_facts": await self._touched("finish_facts", turn_ids),
        }

    async def _touched(self, name: str, *arguments: Any) -> float:
        call = ", ".join(map(literal, ("t", "p", *arguments)))
        plan = await self._connection.fetchval(f"explain (analyze, format json) execute {name} ({call})")
        return rows_touched(json.loads(plan)[0]["Plan"])


@pytest.mark.parametrize("early", ["empty", "tiny"])
async def test_statements_touch_what_they_are_asked_for(world: World, database_url: str, early: str) -> None:
    connection = await world.connect(database_url)
    for name, value in server_settings("planner", statement_timeout_s=60).items():
        await connection.execute("select set_config($1, $2, false)", name, value)
    await connection.execute("set plan_cache_mode = force_generic_plan")
    if early == "tiny":
        await world.ended("first")
        await connection.execute("analyze")
    statements = Statements(world, connection)
    await statements.prepare()
    await asyncio.gather(*(world.ended(f"ended{n}", f"e{n}") for n in range(MANY)))
    await asyncio.gather(*(world.running(f"running{n}", f"r{n}") for n in range(MANY)))
    await asyncio.gather(*(world.admit(f"queued{n}", f"q{n}") for n in range(MANY)))
    touched = await statements.run([f"new{n}" for n in range(BATCH)])
    assert {name: rows for name, rows in touched.items() if rows > PER_ITEM * BATCH} == {}
    assert set((await world.turns.states([f"new{n}" for n in range(BATCH)])).values()) == {TurnState.COMPLETED}

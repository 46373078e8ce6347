"""Processes whose every word with a store waits for leave, so that whatever may happen in between can happen.

An *actor* stands for one process. Its code is the product's, in tasks of its own; each of its calls to Valkey or
PostgreSQL is a *step* that is held until the test grants it, with a *fate*: it is done, its request or its reply is
lost, or it comes late. Nothing else lets an actor go on, so an actor that is granted nothing stands still, and one that
is crashed is gone between two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kdcube.postgres.database import Database
from kdcube.protocol.errors import StoreUnavailable

_ACTOR: ContextVar[Actor] = ContextVar("actor")


class Fate(Enum):
    """What becomes of a step. After all but DONE the caller knows nothing of its outcome."""

    DONE = "done"
    LOST_REQUEST = "request lost"
    LOST_REPLY = "reply lost"
    LATE = "late"


@dataclass(eq=False, slots=True)
class Step:
    """One call to a store that waits for leave."""

    label: str
    run: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]


class Actor:
    """One process. ``tolerates``: errors with which its tasks may end."""

    def __init__(self, name: str, tolerates: tuple[type[Exception], ...] = ()) -> None:
        self.name = name
        self.steps: list[Step] = []
        self.dead = False
        self.broken: list[BaseException] = []
        self._tolerates = tolerates
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context: Context = copy_context()
        self._context.run(_ACTOR.set, self)

    def ask(self, label: str, run: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """A step, whose answer comes when it is granted."""
        answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        if self.dead:
            answer.cancel()
        else:
            self.steps.append(Step(label, run, answer))
        return answer

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls ``function`` within the process."""
        return self._context.run(function, *args)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``work`` within the process."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def crash(self) -> list[Step]:
        """Kills the process; the steps that it had asked for and nobody granted."""
        self.dead = True
        steps, self.steps = self.steps, []
        for task in list(self._tasks):
            task.cancel()
        return steps

    @property
    def gone(self) -> bool:
        return self.dead and not self._tasks

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.dead and not isinstance(error, self._tolerates):
            self.broken.append(error)


def adopting(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """A task factory: every task belongs to the actor in whose code it was made."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    context = kwargs.get("context") or copy_context()
    if (actor := context.get(_ACTOR)) is not None:
        actor.adopt(task)
    return task


class GatedConnection:
    """As Connection, to an actor."""

    def __init__(self, actor: Actor, call: Callable[..., Awaitable[Any]], names: dict[str, str]) -> None:
        """``names``: what to call scripts, by their digests."""
        self._actor = actor
        self._call = call
        self._names = names

    def call(self, *args: Any) -> asyncio.Future[Any]:
        label = self._names.get(args[1], "script") if args[0] == "EVALSHA" else args[0]
        return self._actor.ask(f"valkey {label}", lambda: self._call(*args))


class GatedDatabase(Database):
    """As Database, to an actor: a statement or a transaction is one step."""

    def __init__(self, actor: Actor, database: Database) -> None:
        self._actor = actor
        self._database = database

    async def available(self) -> None:
        """The model's faults are its own: it is never known to be away."""

    async def fetch(self, sql: str, *args: object) -> Any:
        return await self._actor.ask(f"postgres {_title(sql)}", lambda: self._database.fetch(sql, *args))

    async def transact(self, work: Any) -> Any:
        name = work.__qualname__.split(".<locals>")[0]
        return await self._actor.ask(f"postgres {name}", lambda: self._database.transact(work))


def _title(sql: str) -> str:
    return sql.partition("\n")[0].removeprefix("-- ")


def _retrieve(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


def lost(label: str) -> StoreUnavailable:
    return StoreUnavailable(label, "the model lost it")

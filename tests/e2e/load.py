"""Users who talk to one bundle without a pause, and what became of every turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.client import Client, Event, answer, state

PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A turn as its user heard it."""

    turn_id: str
    version: str
    answer: str


@dataclass
class Load:
    """``record`` is a file in which the bundle notes when it begins and ends a turn."""

    clients: Sequence[Client]
    bundle_id: str
    record: Path
    heard: list[Heard] = field(default_factory=list[Heard])
    errors: list[BaseException] = field(default_factory=list[BaseException])
    stopping: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Load]:
        """All talk until it is left; then each finishes the turn that it has sent."""
        tasks = [asyncio.create_task(self._talk(client, number)) for number, client in enumerate(self.clients)]
        try:
            yield self
        finally:
            self.stopping = True
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, BaseException):
                    self.errors.append(ended)
        assert not self.errors, self.errors

    async def until_heard(self, version: str, count: int) -> None:
        """Until so many more turns of a version were heard to their ends, and then all that have begun are of it."""
        before = len(self.heard)
        async with asyncio.timeout(PATIENCE_S):
            while sum(turn.version == version for turn in self.heard[before:]) < count:
                assert not self.errors, self.errors
                await asyncio.sleep(0.02)

    def assert_whole(self, answers: dict[str, str]) -> None:
        """Every turn ran once, to its end, and was of one version. ``answers``: what each version says."""
        assert {turn.version for turn in self.heard} <= answers.keys()
        for turn in self.heard:
            assert turn.answer == answers[turn.version], turn
        notes = Counter(self.record.read_text().splitlines())
        wanted = Counter({f"{what} {turn.turn_id} 1": 1 for turn in self.heard for what in ("begin", "end")})
        assert notes == wanted, (notes - wanted, wanted - notes)

    async def _talk(self, client: Client, number: int) -> None:
        try:
            while not self.stopping:
                number += 1
                sent = await client.sent("go", at=number, bundle_id=self.bundle_id)
                events = await client.ended(sent["task_id"], at=number + 1)
                self.heard.append(heard(sent["task_id"], events))
        except BaseException as error:
            self.errors.append(error)
            raise


def heard(turn_id: str, events: Sequence[Event]) -> Heard:
    """Of a turn that has completed. All of its events are of one version."""
    assert state(events) == "completed", events[-1].data
    (version,) = {event.data["bundle"]["version"] for event in events if event.offset is not None}
    return Heard(turn_id, version, answer(events))

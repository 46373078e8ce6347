from __future__ import annotations

import asyncio

import pytest

from kdcube.proc.leader import Leader

pytestmark = pytest.mark.anyio


class FakeLeadership:
    """Acquired ``times``."""

    def __init__(self, events: list[str], times: int = 1000) -> None:
        self.events = events
        self.held = False
        self._times = times

    async def try_acquire(self) -> bool:
        self._times -= 1
        self.held = self._times >= 0
        return self.held

    async def release(self) -> None:
        self.events.append("released")


class FakeReaper:
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def hold_off(self) -> None:
        self.events.append("hold off")


class Broken(Exception):
    pass


class Rounds(Leader):
    """The second round breaks."""

    def __init__(self, events: list[str], times: int = 1000) -> None:
        super().__init__(
            FakeLeadership(events, times),
            connection=None,
            workers=None,
            reaper=FakeReaper(events),
            reconciler=None,
            eraser=None,
        )
        self.events = events

    async def once(self) -> None:
        if "round" in self.events:
            raise Broken
        self.events.append("round")


async def test_a_leader_that_breaks_gives_the_lock_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdcube.proc.leader.LOOK_EVERY_S", 0)
    events: list[str] = []
    with pytest.raises(Broken):
        await Rounds(events).run()
    assert events == ["round", "released"]


class Long(Rounds):
    """A round that ends only when it is cancelled."""

    async def once(self) -> None:
        self.events.append("round")
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("cancelled")


async def test_a_long_round_keeps_the_lock_and_ends_when_another_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcube.proc.leader.RENEW_EVERY_S", 0)
    events: list[str] = []
    leader = Long(events, times=3)
    leading = asyncio.create_task(leader.run())
    while "cancelled" not in events:
        await asyncio.sleep(0)
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    assert events == ["round", "cancelled", "released"]

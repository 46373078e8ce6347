from __future__ import annotations

import pytest

from kdcube.proc.leader import Leader

pytestmark = pytest.mark.anyio


class FakeLeadership:
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.held = False

    async def try_acquire(self) -> bool:
        self.held = True
        return True

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

    def __init__(self, events: list[str]) -> None:
        super().__init__(
            FakeLeadership(events), connection=None, workers=None, reaper=FakeReaper(events), reconciler=None
        )
        self.events = events

    async def once(self) -> None:
        if "round" in self.events:
            raise Broken
        self.events.append("round")


async def test_a_new_leader_lets_workers_renew_first_and_a_broken_one_gives_the_lock_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdcube.proc.leader.LOOK_EVERY_S", 0)
    events: list[str] = []
    with pytest.raises(Broken):
        await Rounds(events).run()
    assert events == ["hold off", "round", "released"]

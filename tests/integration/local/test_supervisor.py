"""Services are kept running and end in order, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path

import pytest

from kdcube.local.process import birth_of
from kdcube.local.service import ServiceFailed
from kdcube.local.state import read_state
from kdcube.local.supervisor import open_supervisor

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:8010"


class Reports:
    """Collects lines for people, and lets a test wait for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def wait_for(self, text: str) -> str:
        while True:
            for line in self.lines:
                if text in line:
                    return line
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)


def pids(home) -> dict[str, int]:
    state = read_state(home.state_file)
    assert state is not None
    return {service.instance: service.process.pid for service in state.services}


async def test_services_end_in_reverse_order_of_their_groups(home, fake, tmp_path: Path):
    async with open_supervisor(home, URL, print) as supervisor:
        supervisor.start(fake("valkey"), fake("postgres"))
        await supervisor.ready(20)
        supervisor.start(fake("ingress-0"), fake("ingress-1"))
        supervisor.start(fake("proc-0"))
        await supervisor.ready(20)
        started = pids(home)
    ended = (tmp_path / "ended").read_text().split()
    assert ended[0] == "proc-0"
    assert set(ended[1:3]) == {"ingress-0", "ingress-1"}
    assert set(ended[3:]) == {"valkey", "postgres"}
    assert [pid for pid in started.values() if birth_of(pid)] == []
    assert not home.state_file.exists()


async def test_a_killed_service_is_started_again(home, fake):
    reports = Reports()
    async with open_supervisor(home, URL, reports) as supervisor:
        supervisor.start(fake("proc-0"))
        await supervisor.ready(20)
        first = pids(home)["proc-0"]
        os.kill(first, signal.SIGKILL)
        assert "SIGKILL" in await reports.wait_for("proc-0")
        await supervisor.ready(20)
        assert pids(home)["proc-0"] != first


async def test_what_a_killed_service_has_started_ends_with_it(home, fake, tmp_path: Path):
    reports = Reports()
    async with open_supervisor(home, URL, reports) as supervisor:
        supervisor.start(fake("proc-0", "parent"))
        await supervisor.ready(20)
        child = os.pidfd_open(int((tmp_path / "child").read_text()))
        os.kill(pids(home)["proc-0"], signal.SIGKILL)
        await reports.wait_for("starting it again")
        assert select.select([child], [], [], 20)[0] == [child]
        os.close(child)


async def test_a_service_that_never_starts_fails_with_its_last_words(home, fake):
    async with open_supervisor(home, URL, print) as supervisor:
        supervisor.start(fake("valkey"))
        supervisor.start(fake("ingress-0", "fails"))
        with pytest.raises(
            ServiceFailed,
            match=r"ingress-0 cannot start: ingress-0 cannot read its settings \(it ended with code 1, 5 times; ",
        ):
            await supervisor.ready(60)


async def test_what_is_late_is_named(home, fake):
    async with open_supervisor(home, URL, print) as supervisor:
        spec = fake("proc-0")
        supervisor.start(spec)
        with pytest.raises(ServiceFailed, match="proc-0 is not ready after 0 s: it has not "):
            await supervisor.ready(0)


async def test_a_service_that_does_not_drain_is_killed(home, fake):
    reports = Reports()
    async with open_supervisor(home, URL, reports) as supervisor:
        supervisor.start(fake("proc-0", "stubborn", grace_s=0.1))
        await supervisor.ready(20)
        pid = pids(home)["proc-0"]
    assert reports.lines == ["proc-0 did not drain within 0.1 s and is killed"]
    assert birth_of(pid) is None


async def test_a_second_wish_to_stop_ends_the_drain(home, fake):
    reports = Reports()
    async with open_supervisor(home, URL, reports) as supervisor:
        supervisor.start(fake("proc-0", "stubborn", grace_s=1000))
        await supervisor.ready(20)
        supervisor.hurry()
    assert reports.lines == []


async def test_a_failure_while_running_ends_the_watch(home, fake, tmp_path: Path):
    async with open_supervisor(home, URL, print) as supervisor:
        supervisor.start(fake("proc-0"))
        await supervisor.ready(20)
        failure = asyncio.create_task(supervisor.failure())
        supervisor.start(fake("ingress-0", "fails"))
        with pytest.raises(ServiceFailed):
            await failure


async def test_a_service_waits_for_what_it_needs(home, fake, tmp_path: Path):
    """So that an outage of a store does not use up the starts of what depends on it."""
    reports = Reports()
    async with open_supervisor(home, URL, reports) as supervisor:
        stores = supervisor.start(fake("postgres"))
        await supervisor.ready(20)
        supervisor.start(fake("proc-0"), needs=stores)
        await supervisor.ready(20)
        before = pids(home)
        stores[0].ready.clear()  # as while it recovers
        os.kill(before["proc-0"], signal.SIGKILL)
        await reports.wait_for("proc-0 was ended by SIGKILL")
        assert "proc-0" not in pids(home)
        stores[0].ready.set()
        await supervisor.ready(20)
        assert pids(home)["proc-0"] != before["proc-0"]

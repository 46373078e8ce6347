"""Releases of a bundle from git on a system with two procs, while people talk to it and processes die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from tests.e2e.client import Client
from tests.e2e.conftest import ECHO, Connect, Stack
from tests.e2e.load import Load, heard
from tests.integration.proc.bundles.git_servers import Remote, http_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

ID = "live@1.0.0"
USERS = 8
PATIENCE_S = 90.0
CODE = """
import asyncio, os
from kdcube.sdk import Bundle

bundle = Bundle("live@1.0.0")

@bundle.on_message
async def answer(turn):
    note(turn, "begin")
    for number in range(4):
        await turn.delta(f"NAME {number} ")
        await asyncio.sleep(0.05)
    note(turn, "end")

def note(turn, what):
    record = os.open(turn.config["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, f"{what} {turn.id} {turn.attempt}\\n".encode())
    os.close(record)
"""
STEPS = ("proc.prepare.tried", "proc.prepare.failed", "proc.prepare.settled", "proc.activate.loaded")


def code(name: str) -> dict[str, str]:
    return {"live/bundle.py": CODE.replace("NAME", name)}


def said(name: str) -> str:
    return "".join(f"{name} {number} " for number in range(4))


@dataclass
class Live:
    """The system, its repository, and an administrator."""

    stack: Stack
    remote: Remote
    folder: Path
    record: Path

    def commit(self, name: str) -> str:
        """A version that says its name; gives the version."""
        return self.remote.commit(code(name))[:12]

    def crash_at(self, step: str) -> Path:
        """The next proc that comes there dies; the file is gone when that happened."""
        order = self.folder / step
        order.touch()
        return order

    async def ask(self, admin: Client, action: str, **body: Any) -> int:
        """The number of the release that this wants."""
        response = await admin.ask("POST", f"/admin/bundles/{ID}/{action}", json=body)
        assert response.status_code in (200, 202), response.text
        return response.json()["release"]["number"]

    async def settled(self, admin: Client, number: int) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            response = await admin.ask("GET", f"/admin/bundles/{ID}/releases/{number}")
            assert response.status_code == 200, response.text
            release = response.json()["release"]
            return release if release["state"] != "wanted" else None

        return await self.until(look)

    async def active(self, number: int) -> None:
        """Every proc runs the release."""

        async def look() -> bool:
            procs = [service.url for service in self.stack.state.services if service.name == "proc"]
            async with httpx.AsyncClient() as http:
                healths = [(await http.get(f"{url}/health")).json() for url in procs]
            return len(procs) == 2 and all(
                any(bundle["id"] == ID and bundle["release"] == number for bundle in health["bundles"])
                for health in healths
            )

        await self.until(look)

    async def until(self, look: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    if found := await look():
                        return found
                except httpx.TransportError:  # it was killed
                    pass
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("rollout")
    remote, record = Remote.make(folder / "remote"), folder / "record"
    remote.commit(code("zero"))
    points = ",".join(f"{step}=crash({folder / step})" for step in STEPS)
    with http_server(remote.bare.parent) as server:
        entry = {"git_url": server.url, "git_subdir": "live", "config": {"record": str(record)}}
        registry = {"default_bundle_id": "echo@1.0.0", "bundles": {"echo@1.0.0": {"path": str(ECHO)}, ID: entry}}
        rates = {"registered": {"hourly": -1, "burst": 10_000, "burst_window": 60}}
        stack = Stack(
            folder,
            {
                "AGENTIC_BUNDLES_JSON": json.dumps(registry),
                "KDCUBE_FAILPOINTS": points,
                "GATEWAY_CONFIG_JSON": json.dumps({"tenant": "local", "project": "main", "rate_limits": rates}),
            },
        )
        stack.up(["--proc", "2"])
        try:
            yield Live(stack, remote, folder, record)
        finally:
            stack.down()


@pytest.fixture
async def admin(live: Live, connect: Connect) -> Client:
    return connect(live.stack, "token-admin")


async def answered(client: Client) -> tuple[str, str]:
    turn = (await client.sent("hello", bundle_id=ID))["task_id"]
    one = heard(turn, await client.ended(turn))
    return one.version, one.answer


async def test_reloads_and_a_rollback_under_load_lose_double_and_interrupt_nothing(live, admin, connect):
    await live.active(1)
    answers = {live.remote.head()[:12]: said("zero")}
    load = Load([connect(live.stack) for _ in range(USERS)], ID, live.record)
    live.record.unlink(missing_ok=True)
    async with load.running():
        await load.until_heard(next(iter(answers)), USERS)
        for name in ("one", "two", "three"):
            version = live.commit(name)
            answers[version] = said(name)
            number = await live.ask(admin, "reload")
            await live.active(number)
            await load.until_heard(version, 2 * USERS)
        back = await live.ask(admin, "rollback")
        await live.active(back)
        await load.until_heard(list(answers)[2], 2 * USERS)
    load.assert_whole(answers)
    assert [turn.version for turn in load.heard[-USERS:]] == [list(answers)[2]] * USERS


async def test_what_does_not_load_and_what_cannot_be_fetched_change_nothing(live, admin, connect):
    user, version = connect(live.stack), live.commit("good")
    await live.active(await live.ask(admin, "reload"))
    live.remote.commit({"live/bundle.py": "def broken(:\n"})
    broken = await live.settled(admin, await live.ask(admin, "reload"))
    assert (broken["state"], "SyntaxError" in broken["problem"]) == ("failed", True)
    assert await answered(user) == (version, said("good"))
    away = live.remote.bare.rename(live.remote.bare.with_name("away"))
    try:
        failed = await live.settled(admin, await live.ask(admin, "reload"))
    finally:
        away.rename(live.remote.bare)
    assert (failed["state"], "git on http://127.0.0.1" in failed["problem"]) == ("failed", True)
    assert await answered(user) == (version, said("good"))


@pytest.mark.parametrize("step", STEPS)
async def test_a_proc_that_dies_on_the_way_leaves_a_release_that_the_others_bring_to_its_end(
    live, admin, connect, step
):
    before = await answered(connect(live.stack))
    fails = step == "proc.prepare.failed"
    version = live.commit(step)
    if fails:
        live.remote.commit({"live/bundle.py": "def broken(:\n"})
    order = live.crash_at(step)
    number = await live.ask(admin, "reload")
    settled = await live.settled(admin, number)
    assert settled["state"] == ("failed" if fails else "ready")
    await live.until(lambda: anyio.to_thread.run_sync(lambda: not order.exists()))  # somebody died
    live.stack.wait_back()
    if not fails:
        await live.active(number)
    assert await answered(connect(live.stack)) == (before if fails else (version, said(step)))


async def test_a_change_of_the_entry_holds_for_the_next_turn(live, admin, connect, tmp_path):
    user, other = connect(live.stack), tmp_path / "other record"
    live.commit("changed")
    await live.active(await live.ask(admin, "reload"))
    response = await admin.ask("PATCH", f"/admin/bundles/{ID}", json={"config": {"record": str(other)}})
    assert response.status_code == 202, response.text
    await live.active(response.json()["release"]["number"])
    await answered(user)
    assert len(other.read_text().splitlines()) == 2

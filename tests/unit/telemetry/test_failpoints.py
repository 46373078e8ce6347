from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from kdcube.protocol.errors import ConfigurationError, StoreUnavailable
from kdcube.telemetry.failpoints import InjectedFailure, failpoint, hit, install, release, visits

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def off_afterwards():
    yield
    install("")


async def test_off_by_default():
    failpoint("a.b")
    await hit("a.b")
    assert visits("a.b") == 0


async def test_errors_and_dropped_replies_at_their_step_only():
    install("a.b=error, c.d=drop")
    failpoint("x.y")
    with pytest.raises(InjectedFailure, match=r"a\.b"):
        failpoint("a.b")
    with pytest.raises(StoreUnavailable):
        await hit("c.d")


async def test_first_and_count():
    install("a.b=error@2:2")
    acted = []
    for _ in range(5):
        try:
            await hit("a.b")
            acted.append(False)
        except InjectedFailure:
            acted.append(True)
    assert acted == [False, True, True, False, False]
    assert visits("a.b") == 5


async def test_a_pause_holds_its_task_until_the_file_exists(tmp_path):
    go = tmp_path / "go"
    install(f"a.b=pause({go})")
    paused = asyncio.create_task(hit("a.b"))
    while not (tmp_path / "go.reached").exists():
        await asyncio.sleep(0)
    assert not paused.done()
    assert (tmp_path / "go.reached").read_text() == str(os.getpid())
    go.touch()
    await paused
    (tmp_path / "go.reached").unlink()
    await hit("a.b")
    assert not (tmp_path / "go.reached").exists()


async def test_a_file_makes_one_visit_act(tmp_path):
    order = tmp_path / "order"
    install(f"a.b=drop({order}),a.b=error({tmp_path / 'never'})")
    await hit("a.b")
    for _ in range(2):
        order.touch()
        with pytest.raises(StoreUnavailable):
            await hit("a.b")
        assert (tmp_path / "order.reached").exists()
        await hit("a.b")
    assert visits("a.b") == 5


async def test_a_pause_holds_a_thread_until_it_is_released():
    install("a.b=pause")
    paused = asyncio.create_task(asyncio.to_thread(failpoint, "a.b"))
    while not visits("a.b"):
        await asyncio.sleep(0)
    assert not paused.done()
    release("a.b")
    await paused


def test_a_crash_is_a_kill():
    code = "from kdcube.telemetry.failpoints import *; install('a.b=crash'); failpoint('a.b'); print('alive')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert "alive" not in ended.stdout.splitlines()


@pytest.mark.parametrize("spec", ["a", "a=", "a=explode", "a=error:0", "A=error", "a=pause()"])
async def test_what_is_no_failpoint_is_refused(spec):
    with pytest.raises(ConfigurationError, match="KDCUBE_FAILPOINTS"):
        install(spec)

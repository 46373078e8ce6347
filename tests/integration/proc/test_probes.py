"""What proc says of itself."""

from __future__ import annotations

import asyncio

import pytest

from kdcube.local.ports import free_port
from kdcube.proc.bundles.pool import HostPool
from kdcube.proc.main import serve
from kdcube.protocol.errors import KDCubeError

pytestmark = pytest.mark.anyio


async def test_ready_while_all_of_its_work_goes_on(deployment):
    async with deployment.proc() as proc:
        await proc.probes.epoch_watch.wait_for()
        assert await proc.probes.failing() is None


@pytest.mark.parametrize("name", ["maintenance", "bundle hosts", "sign of life", "claiming"])
async def test_not_ready_once_a_part_of_it_has_ended(deployment, name):
    async with deployment.proc() as proc:
        (task,) = (task for task in proc.probes.tasks if task.get_name() == name)
        task.cancel()
        assert await proc.probes.first_broken() == f"{name} ended: without an error"
        assert await proc.probes.failing() == f"broken: {name} ended: without an error"


async def test_the_error_of_the_part_that_ended_is_told(deployment):
    async def fail() -> None:
        raise ExceptionGroup("several", [OSError("no more files")])

    async with deployment.proc() as proc:
        proc.probes.tasks.append(asyncio.create_task(fail(), name="something"))
        assert await proc.probes.first_broken() == "something ended: OSError: no more files"


async def test_a_proc_of_which_a_part_ends_drains_and_fails(deployment, monkeypatch):
    async def watch(_: HostPool) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(HostPool, "_watch", watch)
    settings = deployment.settings(CHAT_PROCESSOR_PORT=str(free_port()), PROC_CONTAINER_STOP_TIMEOUT_SEC="4")
    with pytest.raises(KDCubeError, match="bundle hosts ended: OSError: too many open files"):
        await serve(settings)

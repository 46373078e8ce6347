"""Keeps the services of one installation running, and ends them in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kdcube.local.home import Home
from kdcube.local.logs import keep_logs_short
from kdcube.local.service import Service, ServiceFailed, ServiceSpec
from kdcube.local.state import ProcessRecord, ServiceRecord, State, record_of, write_state


class Supervisor:
    """Groups of services: all are started in order, and drained in reverse order. Made by ``open_supervisor``."""

    def __init__(self, home: Home, url: str, report: Callable[[str], None]) -> None:
        self._home = home
        self._url = url
        self._report = report
        self._supervisor = record_of(os.getpid()) or ProcessRecord(os.getpid(), "")
        self._groups: list[list[Service]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()

    @property
    def services(self) -> list[Service]:
        """All services, in the order of starting."""
        return [service for group in self._groups for service in group]

    def start(self, *specs: ServiceSpec, needs: Sequence[Service] = ()) -> list[Service]:
        """Start a group and keep it running; see ready(). None of it is started again while ``needs`` are not ready."""
        group = [Service(spec, needs, self._log_of(spec), self._write_state, self._report) for spec in specs]
        self._groups.append(group)
        for service in group:
            task = asyncio.create_task(service.run(), name=service.spec.instance)
            task.add_done_callback(self._note_failure)
            self._tasks.append(task)
        return group

    async def ready(self, timeout_s: float) -> None:
        """Wait until everything that was started is ready. Raises ServiceFailed, which names what is missing."""
        everything = asyncio.create_task(self._all_ready())
        try:
            await asyncio.wait({everything, self._failed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            everything.cancel()
        if self._failed.done():
            self._failed.result()
        late = next((service for service in self.services if not service.ready.is_set()), None)
        if late is not None:
            raise ServiceFailed(
                f"{late.spec.instance} is not ready after {timeout_s:g} s: {late.missing} (more in {late.log})"
            )

    async def failure(self) -> None:
        """Wait for ever. Raises ServiceFailed when a service cannot be kept running."""
        await asyncio.shield(self._failed)

    def hurry(self) -> None:
        """End a drain under way: kill what is left."""
        self._hurry.set()

    async def drain(self) -> None:
        """Stop the groups one after the other, last started first; afterwards nothing runs."""
        for group in reversed(self._groups):
            await asyncio.gather(*(service.stop(self._hurry) for service in group))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._home.state_file.unlink(missing_ok=True)

    async def _all_ready(self) -> None:
        for service in self.services:
            await service.ready.wait()

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # raised where somebody waits; a drain under way has no use for it

    def _log_of(self, spec: ServiceSpec) -> Path:
        return self._home.logs / f"{spec.instance}.log"

    def _write_state(self) -> None:
        records = [record for service in self.services if (record := _record_of(service)) is not None]
        drain_limit_s = sum(max((service.spec.grace_s for service in group), default=0.0) for group in self._groups)
        write_state(self._home.state_file, State(self._supervisor, self._url, records, drain_limit_s))


def _record_of(service: Service) -> ServiceRecord | None:
    process = None if service.pid is None else record_of(service.pid)
    spec = service.spec
    return process and ServiceRecord(spec.name, spec.instance, spec.url, process, spec.stop_signal)


@asynccontextmanager
async def open_supervisor(home: Home, url: str, report: Callable[[str], None]) -> AsyncGenerator[Supervisor]:
    """A supervisor for a locked ``home``; leaving the context drains everything that was started."""
    supervisor = Supervisor(home, url, report)
    logs = asyncio.create_task(keep_logs_short(home.logs))
    try:
        yield supervisor
    finally:
        await supervisor.drain()
        logs.cancel()

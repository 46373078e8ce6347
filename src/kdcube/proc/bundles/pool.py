"""The bundle hosts of one proc: which exist, which has room, and what happens when one dies.

The signatures are settled; the bodies follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdcube.proc.bundles.jobs import Outcome, TurnJob, TurnSink
from kdcube.protocol.errors import KDCubeError
from kdcube.sdk.wire import User


class BundleEntry(Protocol):
    """What the pool needs to know of a registered bundle (config/bundles.py has more)."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def module(self) -> str | None: ...
    @property
    def idle_limit_s(self) -> float: ...
    @property
    def wall_limit_s(self) -> float: ...
    @property
    def memory_limit_bytes(self) -> int | None: ...


class BundleRegistry(Protocol):
    @property
    def default_bundle_id(self) -> str: ...
    @property
    def bundles(self) -> Mapping[str, BundleEntry]: ...


class BundleLoadError(KDCubeError):
    """A bundle does not load. The message is one line."""


@dataclass(frozen=True, slots=True)
class BundleStatus:
    id: str
    version: str
    default: bool
    host_pids: tuple[int, ...]
    running: int
    unavailable: str | None


class RunningTurn(Protocol):
    bundle_version: str
    outcome: asyncio.Future[Outcome]
    exited: asyncio.Future[None]
    """Done when no code of this turn can run any more; at once with ``outcome``, but for a handler that does not stop."""

    def credit(self, n_bytes: int) -> None: ...
    def steer(self, steer_id: str, text: str, payload: dict[str, Any]) -> None: ...
    def cancel(self, reason: str) -> None: ...


class HostPool(Protocol):
    def room(self) -> dict[str, int]:
        """Bundle id -> turns that could start now; bundles without room are left out."""
        ...

    def version(self, bundle_id: str) -> str:
        """Content hash of what a turn of this bundle would run now. Raises BundleUnavailable."""
        ...

    def max_attempts(self, bundle_id: str) -> int:
        """What the bundle declares. Raises BundleUnavailable."""
        ...

    async def start(self, job: TurnJob, sink: TurnSink) -> RunningTurn:
        """Raises BundleUnavailable, TurnTooLarge."""
        ...

    async def operate(
        self, bundle_id: str, operation: str, data: Any, *, user: User,
        config: dict[str, Any], secrets: dict[str, str], timeout_s: float,
    ) -> Any: ...

    async def reload(self, bundle_id: str) -> str:
        """New turns run what the files say now; running turns finish on theirs. Returns the version."""
        ...

    def drain(self) -> None:
        """No new turns from now on."""
        ...

    def status(self) -> list[BundleStatus]: ...


@asynccontextmanager
async def open_host_pool(
    registry: BundleRegistry, *, slots: int, group_size: int = 8, run_dir: Path,
    clock: Callable[[], float] = time.monotonic, on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[HostPool]:
    """One host of each bundle is started; raises BundleLoadError when one does not load."""
    raise NotImplementedError
    yield

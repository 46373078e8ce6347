"""What a bundle's code comes from, as the pool sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.content import content_version
from kdcube.protocol.errors import KDCubeError


class SourceError(KDCubeError):
    """The code of a bundle cannot be had. The message is for the operator, and holds no credentials."""


@dataclass(frozen=True, slots=True)
class Code:
    """One version of a bundle's code, on this disk as long as it is held."""

    path: str
    version: str
    revision: str = ""
    """The whole name of the version, where that is longer."""
    release: Callable[[], None] = lambda: None
    """To be called when nothing runs it any more; a second call does nothing."""


class Source(Protocol):
    """Where the code of one bundle comes from."""

    remote: bool
    """Whether it has to be waited for: nothing else waits with it."""

    async def latest(self) -> Code:
        """What the source says now. Raises SourceError."""
        ...

    async def current(self) -> Code:
        """What a further host of this bundle is to run: what was accepted last, else ``latest``. Raises SourceError."""
        ...

    async def accepted(self, code: Code) -> None:
        """``code`` has loaded."""
        ...

    async def before(self, code: Code) -> Code | None:
        """What had been accepted, also by an earlier proc, when ``code`` does not load; None: nothing else."""
        ...


class FolderSource:
    """A folder as it is now. Its version is a hash of what its files say."""

    remote = False

    def __init__(self, entry: BundleEntry) -> None:
        self._path = entry.path or ""
        self._module = entry.module

    async def latest(self) -> Code:
        try:
            version = await asyncio.to_thread(content_version, self._path, self._module)
        except OSError:  # loading it tells what is wrong
            version = "unreadable"
        return Code(self._path, version)

    current = latest

    async def accepted(self, code: Code) -> None:
        """A folder has no memory."""

    async def before(self, code: Code) -> Code | None:
        return None

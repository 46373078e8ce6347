"""What a bundle's code comes from, as the pool sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
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

    def with_release(self, release: Callable[[], None]) -> Code:
        """The same, with which something else is let go."""

        def both() -> None:
            self.release()
            release()

        return replace(self, release=both)


class Fetching(Protocol):
    """Where code comes from that is not in a folder of this machine."""

    async def resolve(self, entry: BundleEntry) -> str:
        """The revision that the entry names now, fetched. Raises SourceError."""
        ...

    async def code(self, entry: BundleEntry, revision: str) -> Code:
        """Raises SourceError."""
        ...


class Sources:
    """The code of bundles: folders as they are now, and what ``fetching`` has or gets."""

    def __init__(self, fetching: Fetching | None) -> None:
        self._fetching = fetching

    async def resolve(self, entry: BundleEntry) -> str | None:
        """The revision that the entry names now; None for a folder. Raises SourceError."""
        return await self._fetched(entry).resolve(entry) if entry.fetched else None

    async def code(self, entry: BundleEntry, revision: str | None) -> Code:
        """Held until it is released. Raises SourceError."""
        if entry.fetched:
            fetched = self._fetched(entry)
            return await fetched.code(entry, revision or await fetched.resolve(entry))
        return await folder_code(entry)

    def _fetched(self, entry: BundleEntry) -> Fetching:
        if self._fetching is None:
            raise SourceError(f"{entry.id} has git_url but no path, and this pool has no store for git")
        return self._fetching


async def folder_code(entry: BundleEntry) -> Code:
    """A folder as it is now. Its version is a hash of what its files say."""
    path = entry.path or ""
    try:
        version = await asyncio.to_thread(content_version, path, entry.module)
    except OSError:  # loading it tells what is wrong
        version = "unreadable"
    return Code(path, version)

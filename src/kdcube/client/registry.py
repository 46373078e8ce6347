"""The registry of bundles of one installation, for its administrators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kdcube.client.client import Client
from kdcube.client.errors import ClientError

LOOK_S = 0.5


class Release(msgspec.Struct, frozen=True):
    """One release of a bundle; ``state`` is wanted, ready or failed. Without ``entry`` it takes the bundle away."""

    bundle_id: str
    number: int
    state: str
    origin: str
    author: str
    entry: dict[str, Any] | None = None
    revision: str | None = None
    reason: str | None = None
    problem: str | None = None
    created_ms: int = 0
    settled_ms: int | None = None


class Proc(msgspec.Struct, frozen=True):
    """What one proc runs of a bundle; ``problem``: why it does not run what is to be served."""

    instance: str
    number: int | None = None
    version: str | None = None
    problem: str | None = None


class Told(msgspec.Struct, frozen=True):
    """A release, and whether all procs run it (or a later one)."""

    release: Release
    active: bool
    changed: bool = False
    procs: tuple[Proc, ...] | None = None


class Item(msgspec.Struct, frozen=True):
    """A bundle in the list."""

    bundle_id: str
    default: bool
    last: Release
    served: Release | None = None
    procs: tuple[Proc, ...] | None = None


class Listed(msgspec.Struct, frozen=True):
    """All bundles that are registered."""

    sequence: int
    items: tuple[Item, ...]
    default_bundle_id: str | None = None


class History(msgspec.Struct, frozen=True):
    """A page of releases, the latest first."""

    items: tuple[Release, ...]
    next: str | None = None


class NotActive(ClientError):
    """The release is not what runs."""

    def __init__(self, message: str, told: Told) -> None:
        super().__init__(message)
        self.told = told


class Registry:
    """Asks and changes it through ``client``. Everything raises Refused or Unreachable."""

    def __init__(
        self,
        client: Client,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._pause = pause
        self._clock = clock

    async def list(self) -> Listed:
        return await self._client.ask(Listed, "GET", "/admin/bundles", patience_s=0)

    async def history(self, bundle_id: str, limit: int) -> tuple[Release, ...]:
        query = {"limit": str(limit)}
        page = await self._client.ask(History, "GET", f"/admin/bundles/{bundle_id}/releases", query=query, patience_s=0)
        return page.items

    async def add(self, entry: Mapping[str, Any], reason: str | None) -> Told:
        return await self._change("POST", "/admin/bundles", entry, reason)

    async def replace(self, bundle_id: str, entry: Mapping[str, Any], reason: str | None) -> Told:
        """Puts ``entry`` in the place of what is registered now."""
        listed = await self.list()
        last = next((item.last.number for item in listed.items if item.bundle_id == bundle_id), 0)
        return await self._change("PUT", f"/admin/bundles/{bundle_id}", entry, reason, match=last)

    async def patch(self, bundle_id: str, patch: Mapping[str, Any], reason: str | None) -> Told:
        """Changes the members that ``patch`` has; null removes one."""
        return await self._change("PATCH", f"/admin/bundles/{bundle_id}", patch, reason)

    async def remove(self, bundle_id: str, default: str | None, reason: str | None) -> Told:
        return await self._change("DELETE", f"/admin/bundles/{bundle_id}", None, reason, default=default)

    async def reload(self, bundle_id: str, reason: str | None) -> Told:
        return await self._change("POST", f"/admin/bundles/{bundle_id}/reload", None, reason)

    async def rollback(self, bundle_id: str, number: int | None, reason: str | None) -> Told:
        body = {} if number is None else {"number": number}
        return await self._change("POST", f"/admin/bundles/{bundle_id}/rollback", body, reason)

    async def make_default(self, bundle_id: str) -> None:
        body = {"default_bundle_id": bundle_id}
        await self._client.ask(dict[str, Any], "PATCH", "/admin/bundles", body=body, patience_s=0)

    async def active(self, told: Told, *, limit_s: float, on_change: Callable[[Told], None]) -> Told:
        """Returns when the release is settled and runs on all procs; ``on_change`` is told of what there is meanwhile.

        Raises NotActive when it failed, or that took longer than ``limit_s``.
        """
        release = told.release
        path = f"/admin/bundles/{release.bundle_id}/releases/{release.number}"
        until = self._clock() + limit_s
        while not told.active:
            if told.release.state == "failed":
                raise NotActive(told.release.problem or "it failed", told)
            if self._clock() > until:
                raise NotActive(f"not within {limit_s:g} s: {_missing(told)}", told)
            await self._pause(LOOK_S)
            later = await self._client.ask(Told, "GET", path)
            if later != told:
                on_change(later)
            told = later
        return told

    async def _change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        reason: str | None,
        *,
        match: int | None = None,
        default: str | None = None,
    ) -> Told:
        query = {name: value for name, value in (("reason", reason), ("default", default)) if value is not None}
        document = None if body is None else dict(body)
        return await self._client.ask(Told, method, path, query=query, body=document, match=match, patience_s=0)


def _missing(told: Told) -> str:
    if told.release.state == "wanted":
        return "no proc has prepared it"
    if not told.procs:
        return "no proc is live"
    behind = [
        f"{proc.instance}: {proc.problem or 'it has not taken it'}"
        for proc in told.procs
        if proc.number is None or proc.number < told.release.number
    ]
    return "; ".join(behind) or "procs have not reported yet"

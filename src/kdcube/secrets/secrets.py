"""Values of secrets by reference: read in their vaults, kept for a while, read again, and kept longer while a vault
cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.config.secrets import SecretReference, Vault
from kdcube.secrets.vault import OpenVault, SecretUnreadable, Unset

log = structlog.get_logger(__name__)

PATIENCE_S = 1.0
"""A caller who could have the last known value waits so long for a newer one."""
READ_LIMIT_S = 5.0
"""A caller who could not waits so long for the first."""
RETRY_S = 10.0
"""A vault that said no, or could not be asked, is asked for the same secret again after that."""
AHEAD = 0.8
"""After this part of its time a value is read again without anybody waiting for it."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The secrets of one bundle, by the names under which its code asks."""

    values: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    """Why the others cannot be read. Plain names under which nothing is set are in neither."""


class _Kept:
    """What is known about one reference."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.read_at = 0.0
        self.asked_at = 0.0
        self.error: SecretUnreadable | None = None
        """Of the last reading; None when it went well."""
        self.retry_at = 0.0
        self.reading: asyncio.Task[None] | None = None


class Secrets:
    """Belongs to one event loop. Made by ``open_secrets``. ``clock`` is monotonic, in seconds."""

    def __init__(
        self, vaults: Mapping[Vault | None, OpenVault], *, stale_s: float,
        clock: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S, read_limit_s: float = READ_LIMIT_S,
    ) -> None:  # fmt: skip
        self._vaults = vaults
        self._stale_s = stale_s
        self._clock = clock
        self._patience_s = patience_s
        self._read_limit_s = read_limit_s
        self._kept: dict[SecretReference, _Kept] = {}

    async def get(self, reference: SecretReference | str) -> str:
        """The value. Raises SecretUnreadable, which names the reference; ValueError for a text that is none.

        While a vault cannot be asked the last known value is given, for ``stale_s`` beyond its time. A vault that says
        no ends that at once.
        """
        if isinstance(reference, str):
            reference = SecretReference.parse(reference)
        try:
            return _member(await self._get(_held(reference)), reference)
        except SecretUnreadable as error:
            if reference.key is None:
                raise
            raise type(error)(reference, error.reason, away=error.away) from None

    async def grant(self, entry: BundleEntry) -> Granted:
        """What the entry grants, each as ``get``."""
        references = entry.secret_references
        if not references:
            return Granted()
        looked: dict[str, str | SecretUnreadable | None]
        looked = {name: self._known(reference) for name, reference in references.items()}
        if unknown := [name for name, value in looked.items() if value is None]:
            asked = await asyncio.gather(*(self._look(references[name]) for name in unknown))
            looked.update(zip(unknown, asked, strict=True))
        granted = Granted()
        for name, found in looked.items():
            if isinstance(found, str):
                granted.values[name] = found
            elif found is not None and not isinstance(found, Unset):
                granted.unreadable[name] = f"{found.reference}: {found.reason}"
        return granted

    def unreadable(self) -> list[dict[str, Any]]:
        """What could not be read when it was tried last, for those who run this: without values."""
        return [
            {"secret": str(reference), "reason": kept.error.reason, "last_known_in_use": kept.value is not None}
            for reference, kept in self._kept.items()
            if kept.error is not None and not isinstance(kept.error, Unset)
        ]

    async def close(self) -> None:
        readings = [kept.reading for kept in self._kept.values() if kept.reading is not None]
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)
        for vault in self._vaults.values():
            vault.close()
        self._kept.clear()

    def _known(self, reference: SecretReference) -> str | None:
        """What ``get`` would give without waiting; for most turns that is all."""
        kept = self._kept.get(_held(reference))
        if kept is None or kept.value is None:
            return None
        keeps_s, now = self._vaults[reference.vault].keeps_s, self._clock()
        if keeps_s is not None and now > kept.read_at + AHEAD * keeps_s:
            return None
        kept.asked_at = now
        try:
            return _member(kept.value, reference)
        except SecretUnreadable:
            return None

    async def _look(self, reference: SecretReference) -> str | SecretUnreadable:
        try:
            return await self.get(reference)
        except SecretUnreadable as error:
            return error

    async def _get(self, reference: SecretReference) -> str:
        kept = self._kept.setdefault(reference, _Kept())
        kept.asked_at = now = self._clock()
        keeps_s = self._vaults[reference.vault].keeps_s
        if kept.value is not None and (keeps_s is None or now < kept.read_at + keeps_s):
            if keeps_s is not None and now > kept.read_at + AHEAD * keeps_s:
                self._read_again(reference, kept, now)
            return kept.value
        self._read_again(reference, kept, now)
        if kept.reading is not None:
            usable = kept.value is not None and now < kept.read_at + (keeps_s or 0) + self._stale_s
            await asyncio.wait({kept.reading}, timeout=self._patience_s if usable else self._read_limit_s)
        if kept.value is not None and self._clock() < kept.read_at + (keeps_s or 0) + self._stale_s:
            return kept.value
        kept.value = None
        raise kept.error or SecretUnreadable(reference, f"no answer within {self._read_limit_s:g} s", away=True)

    def _read_again(self, reference: SecretReference, kept: _Kept, now: float) -> None:
        if kept.reading is None and now >= kept.retry_at:
            self._forget_unused(now)
            kept.reading = asyncio.get_running_loop().create_task(self._read(reference, kept), name=f"read {reference}")

    async def _read(self, reference: SecretReference, kept: _Kept) -> None:
        try:
            value = await self._vaults[reference.vault].read(reference)
        except SecretUnreadable as error:
            self._failed(kept, error)
        else:
            if kept.error is not None and not isinstance(kept.error, Unset):
                log.info("secret_read_again", secret=str(reference))
            elif kept.value not in (None, value):
                log.info("secret_rotated", secret=str(reference))
            kept.value, kept.read_at, kept.error, kept.retry_at = value, self._clock(), None, 0.0
        finally:
            kept.reading = None

    def _failed(self, kept: _Kept, error: SecretUnreadable) -> None:
        if not error.away:
            kept.value = None  # it was taken away: that counts at once
        told_before = kept.error is not None and kept.error.reason == error.reason
        kept.error, kept.retry_at = error, self._clock() + RETRY_S
        if not isinstance(error, Unset) and not told_before:
            log.error(
                "secret_not_read",
                secret=str(error.reference),
                reason=error.reason,
                last_known_in_use=kept.value is not None,
            )

    def _forget_unused(self, now: float) -> None:
        """Values of bundles that are gone do not stay in memory."""
        for reference, kept in list(self._kept.items()):
            keeps_s = self._vaults[reference.vault].keeps_s or 0
            if kept.reading is None and now > kept.asked_at + max(60.0, keeps_s + self._stale_s):
                del self._kept[reference]


def _held(reference: SecretReference) -> SecretReference:
    """What is read: an object once for all of its members."""
    return reference if reference.key is None else SecretReference(reference.name, reference.vault)


def _member(text: str, reference: SecretReference) -> str:
    """The text itself, or the member of its object that the reference names."""
    if reference.key is None:
        return text
    try:
        document: Any = json.loads(text)
    except ValueError:
        raise SecretUnreadable(reference, "it is no JSON, so it has no members") from None
    if not isinstance(document, dict):
        raise SecretUnreadable(reference, "it is no JSON object, so it has no members")
    value: Any = cast("dict[str, Any]", document).get(reference.key)
    if not isinstance(value, str) or not value:
        raise SecretUnreadable(reference, "its JSON object has no text under that key")
    return value

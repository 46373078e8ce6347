"""What processes say of themselves every few seconds: who they are, what they run, what they counted.

Each process is a source, whose report is one JSON document under a key that expires. A source that has stopped writing
stays listed for a while, without figures: it is never taken for one that counted nothing. The report is that of
``telemetry/instruments.py`` with the members ``source``, ``component`` and ``about``; its ``schema`` says which shape
it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_REPORT = Script("report_source")


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The last report of one source, written ``age_s`` ago by Valkey's clock; None when it has expired."""

    source: str
    age_s: float
    report: Mapping[str, Any] | None


class Sources:
    """The sources of one partition. Every method raises StoreUnavailable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def write(self, source: str, report: Mapping[str, Any], *, kept_s: float, listed_s: float) -> None:
        """Replaces the report of ``source``."""
        await _REPORT(
            self._connection,
            [self._keys.sources, self._keys.source(source)],
            [source, msgspec.json.encode(report), int(kept_s * 1000), int(listed_s * 1000)],
        )

    async def leave(self, source: str) -> None:
        """The process ends as it should: it is not listed any more."""
        await self._connection.call("ZREM", self._keys.sources, source)
        await self._connection.call("DEL", self._keys.source(source))

    async def read(self) -> list[SourceReport]:
        """All that are listed, by name."""
        seconds, micros = await self._connection.call("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        listed: list[Any] = await self._connection.call("ZRANGE", self._keys.sources, 0, -1, "WITHSCORES")
        flat = [part for entry in listed for part in entry] if listed and isinstance(listed[0], list) else listed
        seen = {name.decode(): float(at) for name, at in zip(flat[0::2], flat[1::2], strict=True)}
        if not seen:
            return []
        names = sorted(seen)
        reports = await self._connection.call("MGET", *(self._keys.source(name) for name in names))
        return [
            SourceReport(name, max(0.0, now_ms - seen[name]) / 1000, msgspec.json.decode(report) if report else None)
            for name, report in zip(names, reports, strict=True)
        ]

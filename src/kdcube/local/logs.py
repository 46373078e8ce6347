"""The services' logs: one file per instance, kept short, shown together."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_MAX_BYTES = 10 * 1024 * 1024
_CHECK_INTERVAL_S = 10.0
_FOLLOW_INTERVAL_S = 0.2


async def keep_logs_short(folder: Path, max_bytes: int = _MAX_BYTES, interval_s: float = _CHECK_INTERVAL_S) -> None:
    """Shorten logs for ever, every ``interval_s``."""
    while True:
        await asyncio.sleep(interval_s)
        rotate(folder, max_bytes)


def rotate(folder: Path, max_bytes: int = _MAX_BYTES) -> None:
    """Move the content of each log over ``max_bytes`` to ``NAME.log.1`` and start it afresh.

    Its writer keeps its open file, so the content is copied and the file cut; a line written in between is lost.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > max_bytes:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def logs_of(folder: Path, service: str | None) -> list[Path]:
    """The logs of a service (``ingress``), of one instance (``ingress-0``), or of all; in the order of their names."""
    return [
        log
        for log in sorted(folder.glob("*.log"))
        if service is None or log.stem == service or log.stem.rpartition("-")[0] == service
    ]


def stored_lines(logs: list[Path]) -> Iterator[tuple[str, str]]:
    """Every kept line with the instance that wrote it, log by log, oldest first."""
    for log in logs:
        for path in (log.with_suffix(".log.1"), log):
            if path.exists():
                with path.open(errors="replace") as lines:
                    yield from ((log.stem, line.rstrip("\n")) for line in lines)


def followed_lines(folder: Path, service: str | None) -> Iterator[tuple[str, str]]:
    """The lines of the current logs, and then, for ever, those that are written; later instances are included."""
    offsets: dict[Path, int] = {}
    while True:
        yield from new_lines(folder, service, offsets)
        time.sleep(_FOLLOW_INTERVAL_S)


def ends_of(folder: Path, service: str | None) -> dict[Path, int]:
    """Offsets behind all that the logs hold now."""
    return {log: log.stat().st_size for log in logs_of(folder, service)}


def new_lines(folder: Path, service: str | None, offsets: dict[Path, int]) -> Iterator[tuple[str, str]]:
    """The lines behind ``offsets``, which are moved on."""
    for log in logs_of(folder, service):
        offset = offsets.get(log, 0)
        size = log.stat().st_size
        if size == offset:
            continue
        if size < offset:  # rotated
            offset = 0
        with log.open("rb") as file:
            file.seek(offset)
            text, newline, _ = file.read().rpartition(b"\n")
        offsets[log] = offset + len(text) + len(newline)
        if newline:
            yield from ((log.stem, line) for line in text.decode(errors="replace").split("\n"))

"""What bundles say while they run, for the terminal of ``kdcube up``: taken from proc's logs, where all of it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from kdcube.local.logs import ends_of, new_lines

_LOOK_S = 0.1


class _Line(msgspec.Struct, frozen=True):
    event: str = ""
    bundle: str = ""
    line: str = ""
    lines: int = 0
    reason: str = ""
    version: str = ""
    seconds: float = 0.0
    detail: str = ""


_decoder = msgspec.json.Decoder(_Line)


async def relay(folder: Path, report: Callable[[str], None]) -> None:
    """Reports what is written from now on, until it is cancelled."""
    offsets = ends_of(folder, "proc")
    while True:
        await asyncio.sleep(_LOOK_S)
        for _, line in new_lines(folder, "proc", offsets):
            if told := told_by(line):
                report(told)


def told_by(line: str) -> str | None:
    """What a line of proc's log says about a bundle to whoever writes it; None when it is nothing."""
    try:
        said = _decoder.decode(line)
    except msgspec.DecodeError:
        return None
    match said.event:
        case "bundle_output":
            text = said.line
        case "bundle_output_dropped":
            text = f"(printed {said.lines} lines more than are kept)"
        case "a bundle failed":
            text = said.detail.rstrip()
        case "bundle_reloaded":
            text = f"reloaded in {said.seconds:g} s, new turns run version {said.version}"
        case "bundle_not_reloaded":
            text = f"does not load, the version before goes on: {said.reason}"
        case "bundle_as_before":
            text = "is again what runs"
        case "bundle_unavailable":
            text = f"does not load, and takes no turns until it does: {said.reason}"
        case "host_lost":
            why = f"{said.reason}: {said.detail}" if said.detail else said.reason
            text = f"its process ended ({why}), and with it the turns that it ran; another one is started"
        case _:
            return None
    return "\n".join(f"{said.bundle} | {part}" for part in text.split("\n"))

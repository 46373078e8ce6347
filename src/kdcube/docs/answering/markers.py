"""The numbers that a model puts behind what it takes from a passage, as numbers of citations."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

_PARTS = re.compile(r"(?P<fence>```)|(?P<tick>`)|(?P<before> ?)\[(?P<numbers>\d{1,2}(?:\s*,\s*\d{1,2})*)\]")
_BEGUN = re.compile(r"(?: ?\[[\d,\s]{0,20}| |(?<!`)`{1,2})\Z")
"""What may yet become something else."""


class Markers:
    """Text goes through it piece by piece; a marker may be cut anywhere. In code brackets are brackets."""

    def __init__(self, number: Callable[[int], Awaitable[int | None]]) -> None:
        """``number`` gives the citation of a passage by the model's number; None when there is no such passage."""
        self._number = number
        self._kept = ""
        self._in_fence = False
        self._in_code = False

    async def feed(self, text: str) -> str:
        """What can be shown by now."""
        text = self._kept + text
        begun = _BEGUN.search(text)
        text, self._kept = (text[: begun.start()], text[begun.start() :]) if begun else (text, "")
        return await self._replaced(text)

    async def rest(self) -> str:
        """At the end of the text."""
        text, self._kept = self._kept, ""
        return await self._replaced(text)

    async def _replaced(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for found in _PARTS.finditer(text):
            parts.append(text[end : found.start()])
            end = found.end()
            if found["fence"]:
                self._in_fence, self._in_code = not self._in_fence, False
            elif found["tick"] and not self._in_fence:
                self._in_code = not self._in_code
            elif found["numbers"] and not self._in_fence and not self._in_code:
                parts.append(await self._cited(found["before"], found["numbers"]))
                continue
            parts.append(found[0])
        return "".join((*parts, text[end:]))

    async def _cited(self, before: str, numbers: str) -> str:
        """One bracket for each number; nothing for those that no passage has."""
        cited = [await self._number(int(number)) for number in numbers.split(",")]
        known = dict.fromkeys(f"[{number}]" for number in cited if number is not None)
        return before + "".join(known) if known else ""

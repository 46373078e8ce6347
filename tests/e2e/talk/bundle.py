"""The bundle of the tests of ``kdcube chat``, which sends text alone: so what it is told to do stands in the text.

The answer is the text, a delta for each word with its white space. A word ``{order:argument}`` is carried out instead:

- ``{hold:FILE}``: waits until the file exists, and answers messages meanwhile as ``[steer: ...]``
- ``{pace:MS}``: from here on a pause between words
- ``{step:TITLE}`` and ``{done:TITLE}``: a step begins, is completed
- ``{cite:FILE}``: a source, with a heading and a quote
- ``{think:WORD}``: text that is no answer
- ``{fail:WORD}``: ends the turn
- ``{many:N}``: so many numbers, a delta each
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from kdcube.sdk import Bundle, BundleError, Turn

bundle = Bundle("talk@1.0.0")

_ORDER = re.compile(r"\{(\w+):([^}]*)\}\s*")
_POLL_S = 0.01


@bundle.on_message
async def answer(turn: Turn) -> None:
    pace_s = 0.0
    for word in re.findall(r"\{[^}]*\}\s*|^\s*\S*\s*|\S+\s*", turn.text):
        order = _ORDER.fullmatch(word)
        if order is None:
            await turn.delta(word)
            await listen(turn, pace_s)
        elif order[1] == "pace":
            pace_s = float(order[2]) / 1000
        else:
            await carry_out(turn, *order.groups())
    await listen(turn, 0)


async def carry_out(turn: Turn, order: str, argument: str) -> None:
    match order:
        case "hold":
            while not Path(argument).exists():
                await listen(turn, _POLL_S)
        case "step":
            await turn.step(argument, argument)
        case "done":
            await turn.step(argument, argument, "completed")
        case "cite":
            await turn.cite(Path(argument).name, argument, heading="Its heading", quote="What it says there.")
        case "think":
            await turn.delta(argument, "thinking")
        case "fail":
            raise BundleError("told_to_fail", argument)
        case "many":
            for number in range(int(argument)):
                await turn.delta(f"{number} ")
        case _:
            raise BundleError("unknown_order", order)


async def listen(turn: Turn, wait_s: float) -> None:
    """Answers messages that have come, for so long."""
    while message := await turn.inbox.poll():
        await turn.delta(f"[steer: {message.text}] ")
    await asyncio.sleep(wait_s)

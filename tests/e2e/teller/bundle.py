"""The bundle of the tests of the OpenAI endpoint: it tells what it was given.

The text says what to do, one word or more: ``given`` answers with the history and the payload as JSON, ``rich`` says
everything that a turn can say beside its answer. ``again`` and ``otherwise`` crash in the first attempt; the second one
says the same and more, or something else. Any other text is echoed.
"""

from __future__ import annotations

import asyncio
import json
import os

from kdcube.sdk import Bundle, Turn

bundle = Bundle("teller@1.0.0", max_attempts=2)


@bundle.on_message
async def answer(turn: Turn) -> None:
    match turn.text:
        case "given":
            history = [[item.role, item.text] for item in turn.history]
            await turn.delta(json.dumps({"history": history, "payload": turn.payload}))
        case "rich":
            await turn.step("search", "Searching")
            await turn.delta("Let me ", "thinking")
            await turn.delta("think.", "thinking")
            number = await turn.cite("Guide", "docs/guide.md", heading="Start", quote="make up")
            await turn.step("search", "Searched", "completed")
            for word in ("Run ", "make ", f"up [{number}]."):
                await turn.delta(word)
            await turn.delta("<svg/>", "canvas")
            await turn.followups(["And then?"])
            await turn.usage("small", 10, 4)
            await turn.usage("large", 100, 20)
        case "again" | "otherwise" if turn.attempt == 1:
            await turn.delta("one two ")
            await asyncio.sleep(0.05)  # it leaves the process first
            os._exit(70)
        case "again":
            for word in ("one ", "two ", "three"):
                await turn.delta(word)
        case "otherwise":
            await turn.delta("one, two")
        case text:
            await turn.delta(text)

"""An agent without a framework: a loop of model and tool that streams, cites, remembers and listens.

The "model" here is a function of this file, so that the example runs anywhere; put yours in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from kdcube.sdk import Bundle, BundleError, HistoryItem, OperationContext, Turn

bundle = Bundle("plain-loop@1.0.0")

NOTES = {
    "fence": "A fence is a number that only the current attempt of a turn holds; late writes of an older one fail.",
    "lease": "A lease is a claim with a deadline; who does not renew it loses it.",
    "cursor": "A cursor says where a reader stands, so that a cut stream goes on where it stopped.",
}


@bundle.on_message
async def answer(turn: Turn) -> None:
    question = turn.text.strip()
    if not question:
        raise BundleError("empty_message", "Please ask something.")
    for _ in range(3):  # a question and at most two corrections of it
        found = await look_up(turn, question)
        async for token in model(question, found, turn.history):
            await turn.delta(token)
        correction = await turn.inbox.poll()  # said while we were answering
        if correction is None:
            break
        question = correction.text
        await turn.delta("\n\n")
    turn.state["questions"] = turn.state.get("questions", 0) + 1
    await turn.followups([f"What is a {term}?" for term in NOTES if term not in question.lower()])


async def look_up(turn: Turn, question: str) -> list[str]:
    """The tool: finds notes, and shows the user what it does."""
    await turn.step("search", "Searching the notes")
    found = [term for term in NOTES if term in question.lower()]
    for term in found:
        await turn.cite(title=term.capitalize(), uri=f"notes:{term}", quote=NOTES[term])
    await turn.step("search", f"Found {len(found)} notes", "completed", data={"terms": list(found)})
    return found


async def model(question: str, found: Sequence[str], history: Sequence[HistoryItem]) -> AsyncIterator[str]:
    """Stands in for a model that streams its tokens."""
    opening = "" if history else "Hello! "
    text = opening + (" ".join(NOTES[term] for term in found) or f"My notes say nothing about {question!r}.")
    for word in text.split(" "):
        await asyncio.sleep(0.02)
        yield word + " "


@bundle.operation("terms")
async def terms(ctx: OperationContext) -> list[str]:
    """What the notes know."""
    return sorted(NOTES)

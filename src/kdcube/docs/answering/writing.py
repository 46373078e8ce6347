"""Replies that a language model writes over what was found, with the documents to fall back on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from kdcube.docs.answering.citing import Citations
from kdcube.docs.answering.composing import worth_reading
from kdcube.docs.answering.markers import Markers
from kdcube.docs.answering.prompting import MAX_PASSAGES, prompt
from kdcube.docs.answering.replying import reply_from_documents, say_without_answer, show_reading
from kdcube.docs.models.client import Model, ModelFailed, open_model
from kdcube.docs.models.settings import ModelSettings
from kdcube.docs.models.wire import Message, Text, Tokens
from kdcube.docs.searching.ranking import Found, Hit
from kdcube.docs.settings import Settings
from kdcube.sdk import Turn


async def reply_by_model(
    turn: Turn, granted: ModelSettings, settings: Settings, name: str, found: Found, citations: Citations
) -> None:
    """Streams the model's answer. Where the model fails it says so, and the documents go on by themselves."""
    hits = worth_reading(found, MAX_PASSAGES)
    await show_reading(turn, hits)
    await turn.step("model", f"Asking {granted.model}")
    writing = _Writing(turn, hits, citations)
    try:
        async with open_model(granted, settings.model_times) as model:
            await writing.write(model, *prompt(name, hits, turn.history, turn.text))
    except ModelFailed as error:
        print(f"docs: the model failed: {error}", flush=True)
        await turn.step("model", "The model failed", "error", markdown=f"{error}.")
        await turn.delta(
            f"\n\n---\n\n*The language model's answer breaks off here: {error}. The documents themselves say:*\n\n"
            if writing.begun
            else f"*The language model gave no answer: {error}. The documents themselves say:*\n\n"
        )
        if found.enough:
            await reply_from_documents(turn, found, citations)
        else:
            await say_without_answer(turn, found, name)
        return
    await turn.step("model", f"{granted.model} has answered", "completed")


class _Writing:
    """One answer of a model, as it goes into the turn."""

    def __init__(self, turn: Turn, hits: Sequence[Hit], citations: Citations) -> None:
        self._turn = turn
        self._hits = hits
        self._citations = citations
        self.begun = False

    async def write(self, model: Model, system: str, messages: Sequence[Message]) -> None:
        """Raises ModelFailed. The tokens are recorded however it ends."""
        markers = Markers(self._number)
        spent: dict[str, int] = {}
        try:
            async with aclosing(model.answer(system, messages)) as answer:
                async for said in answer:
                    if isinstance(said, Text):
                        await self._say(await markers.feed(said.text))
                    elif isinstance(said, Tokens):
                        spent |= {"input": said.input} if said.input is not None else {}
                        spent |= {"output": said.output} if said.output is not None else {}
                    elif said.cut:
                        await self._say(
                            await markers.rest() + "\n\n*(The model's answer was too long, and ends here.)*"
                        )
            await self._say(await markers.rest())
        finally:
            if spent and not self._turn.cancelled:
                await self._turn.usage(model.name, spent.get("input", 0), spent.get("output", 0))

    async def _say(self, text: str) -> None:
        if text:
            self.begun = True
            await self._turn.delta(text)

    async def _number(self, given: int) -> int | None:
        """The citation of the passage that the model calls by this number."""
        if not 1 <= given <= len(self._hits):
            return None
        hit = self._hits[given - 1]
        return await self._citations.number(hit.passage, hit.passage.text)

"""The docs bundle: answers questions about a folder of documents, with citations.

Without a language model it puts its answers together from the documents; with one that it is granted (KDCUBE_LLM_*) it
has the model write them, from the same passages. ``docs/docs-bundle.md`` tells how it is set up.
"""

from __future__ import annotations

import asyncio
import sqlite3

from kdcube.docs.answering.citing import Citations
from kdcube.docs.answering.replying import reply_from_documents, say_what_there_is, say_without_answer
from kdcube.docs.answering.writing import reply_by_model
from kdcube.docs.indexing.place import Progress
from kdcube.docs.library import BuildFailed, Library, Ready
from kdcube.docs.models.settings import ModelMisconfigured, ModelSettings, granted_model
from kdcube.docs.searching.question import Question, read_question
from kdcube.docs.searching.ranking import Found, find
from kdcube.docs.settings import Settings, read_settings
from kdcube.sdk import Bundle, BundleError, Turn

bundle = Bundle("docs@1.0.0", max_attempts=2)

_libraries: dict[Settings, Library] = {}
"""Of this process: all turns share what is open."""


@bundle.on_message
async def answer(turn: Turn) -> None:
    settings = read_settings(turn.config)
    library = _libraries.setdefault(settings, Library(settings))
    ready = await _ready(turn, library)
    question = read_question(turn.text, [item.text for item in turn.history if item.role == "user"])
    name = settings.name or "these documents"
    if not question.words and not question.context:
        await say_what_there_is(turn, ready.index, name)
        return
    found = await _find(turn, ready, question)
    citations = Citations(turn, settings.base_uri)
    model = await _model(turn)
    if model is not None and found.hits:
        await reply_by_model(turn, model, settings, name, found, citations)
    elif found.enough:
        await reply_from_documents(turn, found, citations)
    else:
        await say_without_answer(turn, found, name)


async def _ready(turn: Turn, library: Library) -> Ready:
    """Waits for the index, and shows how far it is."""
    shown = None
    try:
        while not isinstance(state := await library.current(), Ready):
            if shown is None or _is_news(state.progress, shown):
                shown = state.progress or Progress(0, 0)
                await _show_building(turn, shown)
    except BuildFailed as error:
        raise BundleError("docs_unavailable", f"I cannot read the documents: {error}.", retryable=True) from error
    if shown is not None:
        await turn.step("index", "Read the documents", "completed", data={"documents": state.index.documents})
    return state


def _is_news(progress: Progress | None, shown: Progress) -> bool:
    """Worth another event: a twentieth of the whole."""
    return progress is not None and progress.done >= shown.done + max(1, progress.total // 20)


async def _show_building(turn: Turn, progress: Progress) -> None:
    done, total = progress.done, progress.total
    markdown = f"{done:,} of {total:,} files" if total else None
    await turn.step("index", "Reading the documents", "running", markdown=markdown, data={"done": done, "total": total})


async def _find(turn: Turn, ready: Ready, question: Question) -> Found:
    await turn.step("search", "Searching the documents")
    try:
        found = await asyncio.to_thread(find, ready.index, question)
    except sqlite3.Error as error:
        print(f"docs: the index cannot be searched: {error}", flush=True)
        raise BundleError("docs_unavailable", "I cannot search the documents.", retryable=True) from error
    await turn.step(
        "search",
        f"Searched {ready.index.documents:,} documents",
        "completed",
        markdown="They are being read again: what has just changed may be missing." if ready.behind else None,
        data={"documents": ready.index.documents, "passages": ready.index.passages, "behind": ready.behind},
    )
    return found


async def _model(turn: Turn) -> ModelSettings | None:
    try:
        return granted_model(turn.secret)
    except ModelMisconfigured as error:
        print(f"docs: no language model: {error}", flush=True)
        await turn.step("model", "No language model", "error", markdown=f"{error}.")
        return None

"""Replies from the documents alone."""

from __future__ import annotations

from collections.abc import Sequence

from kdcube.docs.answering.citing import Citations, source_line
from kdcube.docs.answering.composing import Answer, Point, compose
from kdcube.docs.searching.index import Index
from kdcube.docs.searching.ranking import Found, Hit
from kdcube.sdk import Turn

_SHOWN_TITLES = 8
_FOLLOWUPS = 3
_CLOSE = 0.3


async def reply_from_documents(turn: Turn, found: Found, citations: Citations) -> None:
    """Streams the answer, a paragraph or a point at a time."""
    answer = compose(found)
    await show_reading(turn, answer.hits)
    await turn.step("compose", "Putting the answer together")
    for number, point in enumerate(answer.lead):
        await turn.delta(
            await _said(point, citations, "" if len(answer.lead) == 1 else "- " if number == 0 else "\n- ")
        )
    if answer.more:
        await turn.delta("\n\nMore on it:\n")
    for point in answer.more:
        await turn.delta(await _said(point, citations, "\n- "))
    await turn.step("compose", "Put the answer together", "completed")
    if questions := _followups(found, answer):
        await turn.followups(questions)


async def show_reading(turn: Turn, hits: Sequence[Hit]) -> None:
    """The step that names the passages."""
    places = list(dict.fromkeys(source_line(hit.passage) for hit in hits))
    passages = "1 passage" if len(hits) == 1 else f"{len(hits)} passages"
    await turn.step(
        "read",
        f"Read {passages}",
        "completed",
        markdown="\n".join(f"- {place}" for place in places),
        data={"files": list(dict.fromkeys(hit.passage.path for hit in hits))},
    )


async def say_without_answer(turn: Turn, found: Found, name: str) -> None:
    """Says plainly that there is none, and at most what comes close."""
    text = f"I find no answer to that in {name}."
    close = [hit for hit in found.hits[:1] if hit.covered >= _CLOSE]
    if close:
        text += f" The closest is {source_line(close[0].passage)}, which is about something else, as far as I can tell."
    await turn.delta(f"{text} Other words may find more.")


async def say_what_there_is(turn: Turn, index: Index, name: str) -> None:
    """For a message that asks nothing: what can be asked about."""
    if not index.documents:
        await turn.delta(f"I answer questions about {name}, but there is nothing in them that I can read.")
        return
    titles = index.titles(_SHOWN_TITLES)
    count = "1 document" if index.documents == 1 else f"{index.documents:,} documents"
    await turn.delta(f"I answer questions about {name} ({count}), and say where the answers stand. For example:\n\n")
    for path, title in titles:
        await turn.delta(f"- {title} (`{path}`)\n")


async def _said(point: Point, citations: Citations, before: str) -> str:
    number = await citations.number(point.hit.passage, point.text)
    text = point.text
    if text.endswith(":") and not point.code:
        text = text[:-1] + "."
    return f"{before}{text} [{number}]" + (f"\n\n{point.code}" if point.code else "")


def _followups(found: Found, answer: Answer) -> list[str]:
    """What other parts of the documents that answered are about, in the order of their rank."""
    used = {hit.passage.id for hit in answer.hits}
    headings = {hit.passage.own_heading for hit in answer.hits}
    paths = {hit.passage.path for hit in answer.hits}
    others = [
        hit.passage.own_heading
        for hit in found.hits
        if hit.answers
        and hit.passage.id not in used
        and hit.passage.path in paths
        and hit.passage.own_heading != hit.passage.title
    ]
    fresh = [heading for heading in dict.fromkeys(others) if heading and heading not in headings]
    return [f"What do the documents say about “{heading}”?" for heading in fresh[:_FOLLOWUPS]]

from __future__ import annotations

from tests.unit.client.installation import complete, delta, resync, service, sse, start

from kdcube.client import Reading
from kdcube.client.events import read_event
from kdcube.client.sse import EventParser


def read(*events: bytes) -> tuple[Reading, list[bool]]:
    """The reading, and which events replaced what there was."""
    reading, parser = Reading(), EventParser()
    return reading, [reading.add(read_event(event)) for data in events for event in parser.feed(data)]


def step(name: str, status: str) -> bytes:
    return sse("chat_step", {"type": "chat.step", "event": {"step": name, "title": name, "status": status}})


CITATION = {"n": 1, "title": "start.md", "uri": "docs/start.md", "heading": "Start", "quote": "make up"}


def test_text_is_kept_by_its_marker():
    reading, _ = read(start(), delta("a"), delta("b", marker="thinking"), delta("c"))
    assert (reading.answer, reading.text("thinking"), reading.text("canvas")) == ("ac", "b", "")


def test_a_step_is_known_by_its_name():
    reading, _ = read(
        start(), step("search", "started"), step("search", "completed"), step("stream.resync", "completed")
    )
    assert [(name, step["status"]) for name, step in reading.steps.items()] == [("search", "completed")]


def test_services_are_kept():
    reading, _ = read(
        start(),
        service("queue.position", {"position": 3, "eta_s": 4.5}),
        service("turn.citations", [CITATION]),
        service("turn.citations", [{"n": 2, "title": "b", "uri": "b.md"}]),
        service("turn.followups", ["And then?"]),
        service("turn.usage", {"model": "m", "input_tokens": 1, "output_tokens": 2}),
        service("unheard.of", None),
    )
    assert (reading.position, reading.eta_s) == (3, 4.5)
    assert [(citation.n, citation.heading) for citation in reading.citations] == [(1, "Start"), (2, None)]
    assert reading.followups == ["And then?"]


def test_a_second_attempt_replaces_the_first():
    reading, replaced = read(
        start(), delta("lost"), service("turn.citations", [CITATION]), start(attempt=2), delta("x")
    )
    assert replaced == [False, False, False, True, False]
    assert (reading.attempt, reading.answer, reading.citations) == (2, "x", [])


def test_a_resync_replaces_what_was_read():
    reading, replaced = read(start(), delta("lost"), resync("found", attempt=2), delta("!"))
    assert replaced == [False, False, False, True, False]  # the notice goes before it
    assert (reading.attempt, reading.answer) == (2, "found!")


def test_an_end_tells_the_state_the_error_and_an_answer_that_was_not_streamed():
    reading, _ = read(start(), complete(state="failed", error={"code": "c", "message": "m"}, answer="whole"))
    assert (reading.state, reading.error, reading.answer) == ("failed", {"code": "c", "message": "m"}, "whole")

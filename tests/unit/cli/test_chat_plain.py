"""Without a terminal: what goes to which stream."""

from __future__ import annotations

import io
import json

import pytest
from tests.unit.client.installation import complete, delta, resync, service, sse, start

from kdcube.cli.chat.plain import JsonView, PlainView
from kdcube.client import Accepted, Reading
from kdcube.client.events import read_event
from kdcube.client.sse import EventParser


def shown(view_type: type[PlainView] | type[JsonView], *parts: bytes) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    view, reading, parser = view_type(out, err), Reading(), EventParser()
    view.asked("A question")
    view.accepted(Accepted("t1", "t1", "c1", "anonymous"))
    for part in parts:
        for source in parser.feed(part):
            event = read_event(source)
            replaced = reading.add(event)
            view.event(event, reading, replaced=replaced)
    view.ended(reading)
    return out.getvalue(), err.getvalue()


def test_the_answer_goes_out_and_the_rest_beside_it():
    step = sse("chat_step", {"type": "chat.step", "event": {"step": "s", "title": "Searched", "status": "completed"}})
    position = service("queue.position", {"position": 2, "eta_s": 0.4})
    out, err = shown(
        PlainView, position, position, start(), step, delta("a", marker="thinking"), delta("Yes"), complete()
    )
    assert out == "Yes\n"
    assert err == "queued: position 2, about 1 s\nSearched\n"


def test_sources_are_listed_below_the_answer():
    citation = {"n": 1, "title": "Start", "uri": "docs/start.md", "heading": "Up", "quote": "make\nup"}
    out, _ = shown(PlainView, start(), delta("Yes [1]\n"), service("turn.citations", [citation]), complete())
    assert out == 'Yes [1]\n\nSources:\n[1] docs/start.md › Up\n    "make up"\n'


def test_an_answer_that_was_not_streamed_is_shown():
    assert shown(PlainView, start(), complete(answer="Yes")) == ("Yes\n", "")


def test_a_resync_goes_on_where_it_can():
    out, err = shown(PlainView, start(), delta("One tw"), resync("One two th"), delta("ree"), complete())
    assert (out, err) == ("One two three\n", "")


def test_a_resync_that_says_something_else_is_said():
    out, err = shown(PlainView, start(), delta("Lost"), resync("Found", attempt=2), complete())
    assert (out, err) == ("Lost\nFound\n", "the answer begins again\n")


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ("failed", {"message": "It broke."}, "kdcube: the turn failed: It broke.\n"),
        ("cancelled", None, "kdcube: the turn was cancelled\n"),
        ("interrupted", {"message": "The host died."}, "kdcube: the turn was interrupted: The host died.\n"),
    ],
)
def test_an_end_that_is_no_good_is_told(state, error, told):
    _, err = shown(PlainView, start(), complete(state=state, error=error))
    assert err == told


def test_events_are_lines_of_json():
    out, err = shown(
        JsonView, start("1"), delta("a\u2028\n", "2"), service("queue.position", {"position": 1}), complete("3")
    )
    events = [json.loads(line) for line in out.split("\n") if line]
    assert [(event["event"], event.get("id")) for event in events] == [
        ("accepted", None),
        ("chat_start", "1"),
        ("chat_delta", "2"),
        ("chat_service", None),
        ("chat_complete", "3"),
    ]
    assert events[0]["data"]["task_id"] == "t1"
    assert events[2]["data"]["delta"]["text"] == "a\u2028\n"
    assert err == ""

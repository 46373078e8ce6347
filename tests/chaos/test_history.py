"""The checker itself: it accepts what the promises allow, and finds each breach in what is nearly the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.chaos.history import History, Run, Send
from tests.e2e.client import Event


def event(name: str, offset: int, turn: str = "t1", *, incarnation: int = 1, attempt: int = 1, **members: Any) -> Event:
    place = {"offset": offset, "incarnation": incarnation, "attempt": attempt}
    return Event(f"{turn}.{incarnation}.{offset}", name, {**place, "conversation": {"task_id": turn}, **members})


def delta(offset: int, text: str, **place: Any) -> Event:
    return event("chat_delta", offset, delta={"text": text, "marker": "answer"}, **place)


def end(offset: int, answer: str, state: str = "completed", **place: Any) -> Event:
    return event("chat_complete", offset, data={"state": state, "answer": answer}, **place)


def resync(offset: int, text: str, *, attempt: int = 1, **place: Any) -> Event:
    return event("resync", offset, attempt=attempt, data={"attempt": attempt, "text": {"answer": text}}, **place)


def status(state: str, turn: str = "t1") -> Event:
    return Event("f", "conv_status", {"conversation": {"task_id": turn}, "data": {"turn_state": state}})


def whole(turn: str = "t1") -> list[Event]:
    return [
        event("chat_start", 1, turn),
        delta(2, "one ", turn=turn),
        delta(3, "two", turn=turn),
        end(4, "one two", turn=turn),
    ]


def sound() -> History:
    return History(
        sends=[
            Send("k1", "c", "first", "t1"),
            Send("k2", "c", "second", "t2"),
            Send("k3", "c", "third", refused="busy"),
        ],
        views={
            "turn": whole(),
            "user": [status("queued"), status("running"), *whole(), status("completed"), *whole("t2")],
        },
        stored={
            "t1": {"state": "completed", "message": "first", "answer": "one two", "attempt": 1},
            "t2": {"state": "completed", "message": "second", "answer": "one two", "attempt": 1},
        },
        ran=[Run(True, "t1"), Run(False, "t1"), Run(True, "t2"), Run(False, "t2")],
    )


def test_a_sound_history():
    assert sound().violations() == []


SECOND = {"incarnation": 2}


@pytest.mark.parametrize(
    "view",
    [
        [*whole()[:2], resync(1, "one ", **SECOND), delta(2, "two", **SECOND), end(3, "one two", **SECOND)],
        [*whole()[:3], resync(0, "", incarnation=0, attempt=0), end(1, "", "interrupted")],
        [resync(3, "one two"), end(4, "one two")],
        [*whole()[:2], event("chat_start", 3, attempt=2, supersedes=1), end(4, "", attempt=2)],
        whole()[:3],
    ],
    ids=["another incarnation", "nothing is left", "from a snapshot", "another attempt", "a reader who left"],
)  # fmt: skip
def test_what_a_reader_may_see(view):
    history = sound()
    history.views = {"turn": view}
    if view[-1].ends_turn:
        history.stored["t1"].update(view[-1].data["data"])
    assert history.violations() == []


BREACHES: dict[str, Callable[[History], Any]] = {
    "a gap": lambda h: h.views["turn"].pop(1),
    "a repeat": lambda h: h.views["turn"].insert(2, h.views["turn"][1]),
    "two events in the wrong order": lambda h: h.views["turn"].insert(1, h.views["turn"].pop(2)),
    "a lost beginning": lambda h: h.views["turn"].pop(0),
    "a second end": lambda h: h.views["turn"].append(end(5, "one two")),
    "an end told twice": lambda h: h.views["user"].append(status("completed")),
    "an end told too early": lambda h: h.views["user"].insert(3, status("completed")),
    "an end told otherwise": lambda h: h.views["user"].__setitem__(6, status("cancelled")),
    "another incarnation without a resync": lambda h: h.views["turn"].__setitem__(2, delta(3, "two", incarnation=2)),
    "a delta that was changed": lambda h: h.views["turn"].__setitem__(2, delta(3, "twoo")),
    "a resync with another text": lambda h: h.views["turn"].insert(3, resync(3, "one")),
    "an attempt that supersedes none": lambda h: h.views["turn"].insert(3, event("chat_start", 4, attempt=2)),
    "an event of another attempt": lambda h: h.views["turn"].__setitem__(2, delta(3, "two", attempt=2)),
    "another end in the store": lambda h: h.stored["t1"].update(state="cancelled"),
    "another answer in the store": lambda h: h.stored["t1"].update(answer="one"),
    "another message in the store": lambda h: h.stored["t1"].update(message="second"),
    "a turn that did not end": lambda h: h.stored["t1"].update(state="running"),
    "a lost turn": lambda h: h.stored.pop("t1"),
    "a refused turn that is stored": lambda h: h.stored.update(t3={**h.stored["t1"], "message": "third"}),
    "a turn of nobody": lambda h: h.stored.update(t3={**h.stored["t1"], "message": "fourth"}),
    "one turn for two messages": lambda h: setattr(h.sends[1], "task_id", "t1"),
    "a turn that ran twice": lambda h: h.ran.extend([Run(True, "t1", 2), Run(False, "t1", 2)]),
    "two turns at once": lambda h: h.ran.insert(1, h.ran.pop(2)),
    "a refused turn that ran": lambda h: h.ran.append(Run(True, "t3")),
    "a completed turn that never ran": lambda h: h.ran.__setitem__(slice(2, 4), []),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_every_breach_is_found(breach):
    history = copy.deepcopy(sound())
    BREACHES[breach](history)
    assert history.violations()


def test_an_outcome_that_nobody_knows_may_be_either():
    history = sound()
    history.sends[2].refused = None
    assert history.violations() == []
    history.stored["t3"] = {**history.stored["t1"], "message": "third"}
    assert history.violations() == []


def test_a_second_attempt_where_the_bundle_allows_one():
    history = sound()
    history.repeatable.add("t1")
    history.stored["t1"]["attempt"] = 2
    history.ran[1:2] = [Run(True, "t1", 2), Run(False, "t1", 2)]
    assert history.violations() == []
    history.ran[1:3] = [Run(True, "t1", 1), Run(False, "t1", 1)]
    assert history.violations()

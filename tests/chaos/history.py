"""What clients sent and saw, and the proof that it is one that the promises allow.

Tests record: ``sends`` (with their outcome), ``views`` (all that one reader saw of a turn's or a user's stream, over as
many connections as it took), ``ran`` (what the trial bundle wrote down) and ``stored`` (the turns in the end). Then
``violations`` finds everything that must not be:

- an accepted turn that did not end, ended twice, or ended differently for two readers or in the store
- events of a turn with a gap or a repeat: offsets are consecutive within an incarnation, and only a resync moves on
  to another one; a new attempt says which one it supersedes
- a completed turn whose deltas are not its answer, as a reader saw it or as it is stored
- a turn that ran twice without leave, or beside another one of its conversation, or although it was refused
- a message that became two turns, or two messages that became one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from tests.e2e.client import Client, Event

ENDED = ("completed", "failed", "cancelled", "interrupted")
_REFUSALS = ("no_capacity", "memory", "queue_full", "backpressure", "rebuilding", "draining")
"""Errors of a 503 that say that nothing was admitted; any other leaves it open."""


@dataclass(slots=True)
class Send:
    """One message under one key, over as many requests as it took. ``task_id`` is set when it was accepted."""

    key: str
    conversation_id: str
    text: str
    task_id: str | None = None
    refused: str | None = None
    """Why, when all that was said of it is that it was not admitted."""


class Run(NamedTuple):
    """The beginning or the end of an attempt, as the bundle noted it."""

    begins: bool
    turn: str
    attempt: int = 1


@dataclass(slots=True)
class History:
    sends: list[Send] = field(default_factory=list[Send])
    views: dict[str, list[Event]] = field(default_factory=dict[str, list[Event]])
    stored: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By internal id, as ``Client.stored`` gives them."""
    repeatable: set[str] = field(default_factory=set[str])
    """Turns whose bundle allows a second attempt."""
    ran: list[Run] = field(default_factory=list[Run])
    """In the order in which it happened."""

    def view(self, name: str) -> list[Event]:
        """Where a reader puts what it sees."""
        return self.views.setdefault(name, [])

    def sent(self, key: str, conversation_id: str, text: str, response: httpx.Response) -> Send:
        """Records the outcome of a send."""
        send = Send(key, conversation_id, text)
        self.sends.append(send)
        self.outcome(send, response)
        return send

    def outcome(self, send: Send, response: httpx.Response) -> None:
        """Records what one more request told."""
        told = response.json()
        if response.status_code == 202:
            assert send.task_id in (None, told["task_id"]), f"{send.key} became two turns"
            send.task_id, send.refused = told["task_id"], None
        elif response.status_code < 500 or told["error"] in _REFUSALS:
            send.refused = told["error"]

    async def collect(self, client: Client, conversations: Sequence[str], record: Path | None = None) -> None:
        """Adds what is stored of ``conversations`` and what the bundle wrote down."""
        for conversation in conversations:
            self.stored.update(await client.stored(conversation))
        if record is not None and record.exists():
            for what, turn, attempt in map(str.split, record.read_text().splitlines()):
                self.ran.append(Run(what == "begin", turn, int(attempt)))

    def began(self) -> list[str]:
        """The turns that the bundle began, in their order."""
        return [run.turn for run in self.ran if run.begins]

    def violations(self) -> list[str]:
        return [*self._of_sends(), *self._of_views(), *self._of_runs()]

    def check(self) -> None:
        """Fails with everything that is wrong."""
        found = self.violations()
        known = {*self.stored, *(send.task_id for send in self.sends if send.task_id is not None)}
        about = [turn for turn in sorted(known) if any(turn in wrong for wrong in found)]
        assert not found, "\n".join(["the history breaks promises:", *found, *self.story(about)])

    def story(self, turns: Sequence[str]) -> Iterator[str]:
        """All that is known of these turns."""
        for turn in turns:
            yield f"{turn} is stored as {self.stored.get(turn)}"
            conversation = next((send.conversation_id for send in self.sends if send.task_id == turn), None)
            beside = [send.task_id for send in self.sends if send.conversation_id == conversation and send.task_id]
            for other in (self.stored[other] for other in beside if other in self.stored):
                told = [other.get(name) for name in ("task_id", "state", "attempt", "parent_turn_id", "started_at")]
                yield f"beside it {told}"
            yield f"{turn} ran as {[run for run in self.ran if run.turn == turn]}"
            for name, events in self.views.items():
                if saw := [_brief(event) for event in events if event.turn == turn]:
                    yield f"{name} saw of {turn}: {' '.join(saw)}"

    # --- parts of the proof

    def _of_sends(self) -> Iterator[str]:
        owner: dict[str, str] = {}
        for send in self.sends:
            if send.task_id is None:
                continue
            if owner.setdefault(send.task_id, send.key) != send.key:
                yield f"{send.key} and {owner[send.task_id]} became one turn, {send.task_id}"
            turn = self.stored.get(send.task_id)
            if turn is None:
                yield f"{send.key} was accepted and is not stored ({send.task_id})"
            elif turn["state"] not in (*ENDED, "applied"):
                yield f"{send.key} was accepted and is still {turn['state']} ({send.task_id})"
            elif turn["message"] != send.text:
                yield f"{send.key} is stored as {turn['message']!r}"
        known = {send.task_id for send in self.sends}
        undecided = {send.text for send in self.sends if send.task_id is None and send.refused is None}
        refused = {send.text: send for send in self.sends if send.refused is not None}
        for task_id, turn in self.stored.items():
            if task_id not in known and turn["message"] in refused:
                yield f"{refused[turn['message']].key} was refused and is stored as {task_id}"
            elif task_id not in known and turn["message"] not in undecided:
                yield f"nobody sent {task_id}: {turn['message']!r}"

    def _of_views(self) -> Iterator[str]:
        for name, events in self.views.items():
            turns: dict[str, _Reader] = {}
            for event in events:
                if event.turn is None:
                    continue
                reader = turns.setdefault(event.turn, _Reader())
                yield from (f"{name}: {wrong} of {event.turn}" for wrong in reader.see(event))
            for turn, reader in turns.items():
                yield from (f"{name}: {wrong} of {turn}" for wrong in self._against_store(reader, turn))

    def _against_store(self, reader: _Reader, turn_id: str) -> Iterator[str]:
        turn = self.stored.get(turn_id)
        if turn is None or reader.ended is None:
            return
        if reader.ended != turn["state"]:
            yield f"the end {reader.ended!r} is not the stored one, {turn['state']!r},"
        if reader.ended == "completed" and reader.text != turn["answer"]:
            yield f"the text {reader.text!r} is not the stored answer {turn['answer']!r}"

    def _of_runs(self) -> Iterator[str]:
        begun = Counter(run.turn for run in self.ran if run.begins)
        ended = {(run.turn, run.attempt) for run in self.ran if not run.begins}
        for turn, times in begun.items():
            if times > 1 + (turn in self.repeatable):
                yield f"{turn} ran {times} times"
            if len({run.attempt for run in self.ran if run.begins and run.turn == turn}) < times:
                yield f"an attempt of {turn} ran twice"
            if self.stored and turn not in self.stored:
                yield f"{turn} ran and is not stored"
        for send in self.sends if self.ran else ():
            turn = self.stored.get(send.task_id or "", {"state": None})
            if turn["state"] == "completed" and (send.task_id, turn["attempt"]) not in ended:
                yield f"{send.key} is completed and did not run to its end ({send.task_id})"
        yield from self._side_by_side(ended)

    def _side_by_side(self, ended: set[tuple[str, int]]) -> Iterator[str]:
        conversation_of = {send.task_id: send.conversation_id for send in self.sends}
        running: dict[str, Run] = {}
        for run in self.ran:
            conversation = conversation_of.get(run.turn)
            if conversation is None:
                continue
            if not run.begins:
                running.pop(conversation, None)
                continue
            other = running.get(conversation)
            if other is not None and (other.turn, other.attempt) in ended:  # one without an end died with its process
                yield f"{run.turn} ran beside {other.turn} in {conversation}"
            running[conversation] = run


def _brief(event: Event) -> str:
    place = "" if event.offset is None else f"@{event.data['incarnation']}.{event.offset}"
    return f"{event.name}{place}({event.turn_state or event.data.get('attempt', '')})"


class _Reader:
    """What one reader has seen of one turn."""

    def __init__(self) -> None:
        self.incarnation: int | None = None
        self.offset = 0
        self.attempt = 0
        self.text = ""
        self.ended: str | None = None
        self.told_end = False

    def see(self, event: Event) -> Iterator[str]:
        """Takes one event; what is wrong with it."""
        if event.name == "conv_status":
            yield from self._status(event)
        elif event.offset is not None:
            yield from self._logged(event)

    def _status(self, event: Event) -> Iterator[str]:
        if event.turn_state not in ENDED:
            return
        if self.told_end:
            yield "a second end in the feed"
        if self.ended is None:
            yield "an end in the feed before the last event"
        elif self.ended != event.turn_state:
            yield f"two ends, {self.ended!r} and {event.turn_state!r},"
        self.told_end = True

    def _logged(self, event: Event) -> Iterator[str]:
        data, place = event.data, (event.data["incarnation"], event.data["offset"])
        if self.ended is not None:
            yield f"{event.name} {place} behind the end"
        if event.name == "resync":
            self.attempt = data["data"]["attempt"]
            self.text = data["data"]["text"].get("answer", "")
        else:
            expected = (self.incarnation, self.offset + 1)
            begins = self.offset == 0 and place[1] == 1  # a log's first event says which incarnation it is
            if place != expected and not begins:
                yield f"{event.name} {place} where {expected} follows"
            yield from self._content(event)
        self.incarnation, self.offset = place

    def _content(self, event: Event) -> Iterator[str]:
        data = event.data
        if event.name == "chat_start":
            if data["attempt"] <= self.attempt:
                yield f"attempt {data['attempt']} behind attempt {self.attempt}"
            # One in between whose START was taken back before it had a log never said anything.
            if self.attempt and not self.attempt <= (data.get("supersedes") or 0) < data["attempt"]:
                yield f"attempt {data['attempt']} supersedes {data.get('supersedes')}, not {self.attempt},"
            self.attempt, self.text = data["attempt"], ""
        elif data["attempt"] != self.attempt != 0:  # 0: a resync found nothing there yet
            yield f"{event.name} of attempt {data['attempt']} within attempt {self.attempt}"
        if event.name == "chat_delta" and data["delta"]["marker"] == "answer":
            self.text += event.text
        if event.ends_turn:
            self.ended = data["data"]["state"]
            if self.ended == "completed" and self.text != data["data"]["answer"]:
                yield f"the deltas {self.text!r} are not the answer {data['data']['answer']!r}"

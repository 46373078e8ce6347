"""A session on a fake installation: what the user does while a turn runs, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.unit.client.installation import URL, accepted, complete, delta, problem, resync, start

from kdcube.cli.chat.inputs import Break, End, Inputs, Line
from kdcube.cli.chat.session import Leaving, Session
from kdcube.client import Accepted, Client, Event, Reading, Refused

pytestmark = pytest.mark.anyio


class Log:
    """A view that writes down what it was given."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def asked(self, text: str) -> None:
        self._add(f"asked {text}")

    def accepted(self, accepted: Accepted) -> None:
        self._add("accepted")

    def event(self, event: Event, reading: Reading, *, replaced: bool) -> None:
        self._add(f"event {event.name}")

    def retrying(self, reason: str, pause_s: float) -> None:
        self._add("retrying")

    def ended(self, reading: Reading | None) -> None:
        self._add("left" if reading is None else f"ended {reading.state} {reading.answer}")

    def note(self, text: str) -> None:
        self._add(f"note {text.strip()}")

    def problem(self, text: str) -> None:
        self._add(f"problem {text}")

    def _add(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def has(self, line: str) -> None:
        async with asyncio.timeout(20):
            while line not in self.lines:
                self._changed.clear()
                await self._changed.wait()


class Turns:
    """Streams that a test writes, and answers to messages that it can hold back."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.receipts: list[str | None] = []
        """Of the messages in their order; None for one that becomes a turn."""
        self._streams: dict[str, asyncio.Queue[bytes]] = {}

    def say(self, turn_id: str, *parts: bytes) -> None:
        for part in parts:
            self._stream(turn_id).put_nowait(part)

    def _stream(self, turn_id: str) -> asyncio.Queue[bytes]:
        return self._streams.setdefault(turn_id, asyncio.Queue())

    async def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/chatbot/api")
        if path == "/sse/chat":
            message = json.loads(request.content)["message"]
            self.sent.append(message)
            number = len(self.sent)
            await self.may_answer.wait()
            if message["text"] == "refuse me":
                return problem(429, "rate_limit_burst", retry_after_s=3)
            receipt = self.receipts.pop(0) if self.receipts else None
            told = {} if receipt is None else {"receipt": {"id": f"t{number}", "state": receipt}}
            return accepted(f"t{number}", **told)
        if path == "/sse/cancel":
            self.cancelled.append(json.loads(request.content)["turn_id"])
            return httpx.Response(200, json={"status": "cancelling"})
        return httpx.Response(200, content=self._read(self._stream(path.split("/")[2])))

    async def _read(self, stream: asyncio.Queue[bytes]) -> AsyncGenerator[bytes]:
        while True:
            yield await stream.get()


class Scene:
    def __init__(self, client: Client, turns: Turns) -> None:
        self.turns = turns
        self.inputs = Inputs()
        self.log = Log()
        self.session = Session(client, self.log, self.inputs, bundle_id="b@1")
        self.client = client

    def does(self, *inputs: Line | Break | End) -> None:
        for given in inputs:
            self.inputs.put_nowait(given)


@asynccontextmanager
async def running(text: str = "question") -> AsyncGenerator[tuple[Scene, asyncio.Task[Reading]]]:
    turns = Turns()
    async with Client(URL, transport=httpx.MockTransport(turns.answer)) as client:
        scene = Scene(client, turns)
        task = asyncio.create_task(scene.session.ask(text))
        try:
            yield scene, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_turn_is_shown_to_its_end():
    async with running() as (scene, turn):
        scene.turns.say("t1", start(), delta("Yes"), complete())
        assert (await turn).answer == "Yes"
        assert scene.log.lines[:2] == ["asked question", "accepted"]
        assert scene.log.lines[-1] == "ended completed Yes"
        assert scene.turns.sent == [{"text": "question", "bundle_id": "b@1"}]
        assert scene.session.conversation_id == "c" * 32
        assert scene.session.last == ("t1", "question")


async def test_a_refusal_is_raised():
    async with running("refuse me") as (scene, turn):
        with pytest.raises(Refused):
            await turn
        assert scene.log.lines == ["asked refuse me", "left"]


async def test_a_break_cancels_the_turn_that_runs():
    async with running() as (scene, turn):
        scene.turns.say("t1", start(), delta("Ye"))
        await scene.log.has("event chat_delta")
        scene.does(Break())
        await scene.log.has("note cancelling; Ctrl-C again leaves")
        scene.turns.say("t1", complete(state="cancelled"))
        assert (await turn).state == "cancelled"
        assert scene.turns.cancelled == ["t1"]


async def test_a_break_before_the_turn_is_accepted_cancels_it_then():
    async with running() as (scene, turn):
        scene.turns.may_answer.clear()
        scene.does(Break())
        await scene.log.has("note cancelling; Ctrl-C again leaves")
        assert scene.turns.cancelled == []
        scene.turns.may_answer.set()
        scene.turns.say("t1", complete(state="cancelled"))
        assert (await turn).state == "cancelled"
        assert scene.turns.cancelled == ["t1"]


@pytest.mark.parametrize(
    ("inputs", "interrupted"), [((Break(), Break()), True), ((End(),), False), ((Line("/quit"),), False)]
)
async def test_the_user_may_leave(inputs, interrupted):
    async with running() as (scene, turn):
        scene.turns.say("t1", start())
        await scene.log.has("event chat_start")
        scene.does(*inputs)
        with pytest.raises(Leaving) as caught:
            await turn
        assert caught.value.interrupted is interrupted
        assert scene.log.lines[-1] == "left"


async def test_a_command_waits_for_the_turn():
    async with running() as (scene, turn):
        scene.does(Line("/new"))
        await scene.log.has("note /new: when the turn has ended")
        scene.turns.say("t1", complete())
        await turn
        assert scene.session.later == ["/new"]


async def test_a_line_steers_and_its_receipts_are_told():
    async with running() as (scene, turn):
        scene.turns.receipts = [None, "accepted"]
        scene.turns.say("t1", start())
        await scene.log.has("event chat_start")
        scene.does(Line("be brief"))
        await scene.log.has("note accepted")
        assert scene.turns.sent[1] == {
            "text": "be brief",
            "bundle_id": "b@1",
            "conversation_id": "c" * 32,
            "policy": "steer",
        }
        scene.turns.say("t2", resync(""), complete(state="applied"))
        await scene.log.has("note applied: be brief")
        scene.turns.say("t1", complete())
        await turn
        assert scene.log.lines.count("note applied: be brief") == 1
        assert "asked be brief" not in scene.log.lines


async def test_the_receipt_of_a_steer_is_told_when_its_turn_ends_first():
    async with running() as (scene, turn):
        scene.turns.receipts = [None, "accepted"]
        scene.turns.say("t1", start())
        scene.does(Line("be brief"))
        await scene.log.has("note accepted")
        scene.turns.say("t1", complete())
        await scene.log.has("ended completed ")
        scene.turns.say("t2", resync(""), complete(state="applied"))
        await turn
        assert scene.log.lines[-1] == "note applied: be brief"


async def test_a_steer_that_bounces_is_shown_as_the_turn_that_it_becomes():
    async with running() as (scene, turn):
        scene.turns.receipts = [None, "accepted"]
        scene.turns.say("t1", start())
        scene.does(Line("and then?"))
        await scene.log.has("note accepted")
        scene.turns.say("t1", complete())
        await scene.log.has("ended completed ")
        # It is read twice: once for what became of it, once to be shown.
        scene.turns.say("t2", start(), start(), delta("Then this."), complete())
        await turn
        assert "note bounced: and then?" in scene.log.lines
        assert scene.log.lines[-1] == "ended completed Then this."
        assert scene.session.last == ("t2", "and then?")


async def test_a_line_that_comes_as_the_turn_ends_is_a_turn_of_its_own():
    async with running() as (scene, turn):
        scene.turns.say("t1", start())
        await scene.log.has("event chat_start")
        scene.turns.may_answer.clear()
        scene.does(Line("and then?"))
        await scene.log.has("note ↪ and then?")
        scene.turns.say("t1", complete())
        await scene.log.has("ended completed ")
        scene.turns.may_answer.set()
        scene.turns.say("t2", start(), delta("Then this."), complete())
        await turn
        assert scene.log.lines[-1] == "ended completed Then this."


async def test_a_line_that_is_typed_before_the_turn_is_accepted_steers_it_then():
    async with running() as (scene, turn):
        scene.turns.receipts = [None, "accepted"]
        scene.turns.may_answer.clear()
        scene.does(Line("be brief"))
        await scene.log.has("note ↪ be brief")
        assert [message["text"] for message in scene.turns.sent] == ["question"]
        scene.turns.may_answer.set()
        await scene.log.has("note accepted")
        assert scene.turns.sent[1]["conversation_id"] == "c" * 32
        scene.turns.say("t2", resync(""), complete(state="applied"))
        scene.turns.say("t1", complete())
        await turn


async def test_a_steer_that_is_refused_is_told_and_the_turn_goes_on():
    async with running() as (scene, turn):
        scene.turns.say("t1", start())
        scene.does(Line("refuse me"))
        await scene.log.has("problem It says rate_limit_burst. Try again in 3 s. (429)")
        scene.turns.say("t1", delta("Yes"), complete())
        assert (await turn).answer == "Yes"

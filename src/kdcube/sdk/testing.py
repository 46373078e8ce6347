"""Runs a bundle in a test, without servers and without a process.

    from kdcube.sdk.testing import run, run_turn

    async def test_answer():
        result = await run_turn(bundle, "hello")
        assert result.answer == "hello"

    async def test_steer():
        async with run(bundle, "hello") as session:
            await session.until(lambda: session.answer)
            session.steer("shorter, please")
            result = await session.result()

The turn runs by the code that runs it in production; only the wire is a fake: every message is encoded and decoded
as it would be, and proc's part (acknowledging text, granting steers) is played by the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk.bundle import Bundle
from kdcube.sdk.calling import CallRun
from kdcube.sdk.context import Refused
from kdcube.sdk.operations import Operations
from kdcube.sdk.running import TurnRun
from kdcube.sdk.wire import (
    AcceptedTurn,
    Applied,
    Apply,
    AskConversation,
    AskTurn,
    Call,
    CallCredit,
    Cancel,
    Conversation,
    Credit,
    Delta,
    Emit,
    Ended,
    FromHost,
    HistoryItem,
    Item,
    Returned,
    Service,
    StartTurn,
    Steer,
    Step,
    ToHost,
    Told,
    User,
    encode_message,
)

TEST_USER = User("test-user", "registered", ("kdcube:role:chat-user",))
_TURN = 1


@dataclass(frozen=True, slots=True)
class TurnError:
    """How a turn failed. ``detail`` is the traceback of an error that was not a BundleError."""

    code: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn said, and how it ended."""

    outcome: str
    """``completed``, ``failed`` or ``cancelled``."""
    events: list[Emit]
    """Everything that was said, in order."""
    text: dict[str, str]
    """All text by marker."""
    steps: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    followups: list[str]
    usage: list[dict[str, Any]]
    error: TurnError | None
    state: dict[str, Any]
    """``turn.state`` as it stands after the turn: what was changed is kept only by a completed turn."""
    applied_steers: list[str] = field(default_factory=list[str])
    bounced_steers: list[str] = field(default_factory=list[str])
    """Texts of steers that the bundle did not take; each becomes the conversation's next turn."""

    @property
    def answer(self) -> str:
        """The stored answer."""
        return self.text.get("answer", "")


class Session:
    """A running turn. Made by ``run``."""

    def __init__(self, bundle: Bundle, start: StartTurn, *, acknowledge: bool, grant_steers: bool) -> None:
        self.events: list[Emit] = []
        self._acknowledge = acknowledge
        self._grant_steers = grant_steers
        self._state = start.state
        self._steers: dict[str, str] = {}
        self._applied: list[str] = []
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        self._run = TurnRun(bundle, _over_the_wire(start, _to_host), self._hear)

    @property
    def answer(self) -> str:
        """The answer so far."""
        return "".join(event.text for event in self.events if isinstance(event, Delta) and event.marker == "answer")

    def steer(self, text: str, payload: Mapping[str, Any] | None = None) -> None:
        """Sends a message to the running turn."""
        steer_id = f"steer-{len(self._steers) + 1}"
        self._steers[steer_id] = text
        self._tell(Steer(_TURN, steer_id, text, dict(payload or {})))

    def cancel(self, reason: str = "cancelled by the test") -> None:
        """Cancels the turn, as the user's stop button does."""
        self._tell(Cancel(_TURN, reason))

    def acknowledge(self, n_bytes: int) -> None:
        """Gives credit back. Only for a session with ``acknowledge=False``."""
        self._tell(Credit(_TURN, n_bytes))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits until the condition holds; it is looked at after every event. AssertionError if the turn ends first."""
        while not condition():
            assert not self._ended.done(), f"the turn ended ({self._ended.result().how}) before the condition held"
            self._news.clear()
            await self._news.wait()

    async def result(self) -> TurnResult:
        """Waits for the end of the turn."""
        ended = await asyncio.shield(self._ended)
        text: dict[str, str] = {}
        for event in self.events:
            if isinstance(event, Delta):
                text[event.marker] = text.get(event.marker, "") + event.text
        taken = [steer for steer in self._applied if steer not in ended.untaken_steers]
        return TurnResult(
            outcome=ended.how,
            events=list(self.events),
            text=text,
            steps=[event.event for event in self.events if isinstance(event, Step)],
            citations=[citation for data in self._services("turn.citations") for citation in data],
            followups=[question for data in self._services("turn.followups") for question in data],
            usage=self._services("turn.usage"),
            error=TurnError(ended.code, ended.message, ended.detail) if ended.how == "failed" else None,
            state=self._state if ended.state is None else ended.state,
            applied_steers=[self._steers[steer] for steer in taken],
            bounced_steers=[text for steer, text in self._steers.items() if steer not in taken],
        )

    async def close(self) -> None:
        """Cancels what still runs and waits for its end."""
        self.cancel("the test is over")
        await asyncio.wait([self._run.task])

    def _services(self, type_: str) -> list[Any]:
        return [event.data for event in self.events if isinstance(event, Service) and event.type == type_]

    def _tell(self, message: ToHost) -> None:
        message = _over_the_wire(message, _to_host)
        assert isinstance(message, Credit | Steer | Applied | Cancel)
        self._run.receive(message)

    def _hear(self, message: FromHost) -> None:
        message = _over_the_wire(message, _from_host)
        if isinstance(message, Delta | Step | Service):
            self.events.append(message)
            if isinstance(message, Delta) and self._acknowledge:
                # Not at once: what is acknowledged has been to the log and back.
                asyncio.get_running_loop().call_soon(self._tell, Credit(_TURN, message.n_bytes))
        elif isinstance(message, Apply):
            granted = message.steer_ids if self._grant_steers else []
            self._applied += granted
            asyncio.get_running_loop().call_soon(self._tell, Applied(_TURN, message.request, granted))
        elif isinstance(message, Ended):
            self._ended.set_result(message)
        self._news.set()


_to_host = msgspec.msgpack.Decoder(ToHost)
_from_host = msgspec.msgpack.Decoder(FromHost)


def _over_the_wire(message: Any, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    return decoder.decode(encode_message(message))


@asynccontextmanager
async def run(
    bundle: Bundle,
    text: str = "",
    *,
    payload: Mapping[str, Any] | None = None,
    history: Sequence[HistoryItem | tuple[str, str]] = (),
    state: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    user: User = TEST_USER,
    attempt: int = 1,
    turn_id: str = "test-turn",
    trace: TraceContext | None = None,
    acknowledge: bool = True,
    grant_steers: bool = True,
) -> AsyncGenerator[Session]:
    """Starts a turn; what still runs at the end of the block is cancelled.

    ``history`` takes HistoryItem or ``(role, text)``. ``acknowledge=False`` keeps the credit of text that was sent
    until ``session.acknowledge``; ``grant_steers=False`` answers every take of a steer with no.
    """
    start = StartTurn(
        turn=_TURN,
        turn_id=turn_id,
        attempt=attempt,
        text=text,
        payload=dict(payload or {}),
        user=user,
        history=[item if isinstance(item, HistoryItem) else HistoryItem(*item) for item in history],
        state=dict(state or {}),
        config=dict(config or {}),
        secrets=dict(secrets or {}),
        traceparent=trace.traceparent if trace else "",
        tracestate=trace.tracestate if trace else "",
    )
    session = Session(bundle, start, acknowledge=acknowledge, grant_steers=grant_steers)
    try:
        yield session
    finally:
        await session.close()


async def run_turn(bundle: Bundle, text: str = "", **options: Any) -> TurnResult:
    """Runs a turn to its end. ``options`` are those of ``run``."""
    async with run(bundle, text, **options) as session:
        return await session.result()


class Installation:
    """Plays proc for operations: the conversations of the caller, and the messages that are sent in their name.

    ``refusal`` is what the next message is answered with, instead of being accepted.
    """

    def __init__(self, *conversations: Conversation, refusal: Refused | None = None) -> None:
        self.conversations = {conversation.conversation_id: conversation for conversation in conversations}
        self.refusal = refusal
        self.sent: list[AskTurn] = []
        """The messages that were accepted, in order: ``text``, ``conversation_id``, ``payload`` and so on."""

    def told(self, asked: AskConversation | AskTurn) -> Told:
        """What proc answers."""
        call, request = asked.call, asked.request
        if isinstance(asked, AskConversation):
            return Told(call, request, self.conversations.get(asked.conversation_id))
        if refusal := self.refusal:
            return Told(call, request, None, refusal.code, refusal.user_message, refusal.field, refusal.retry_after_s)
        before = [sent for sent in self.sent if sent.idempotency_key and sent.idempotency_key == asked.idempotency_key]
        number = self.sent.index(before[0]) + 1 if before else len(self.sent) + 1
        if not before:
            self.sent.append(asked)
        conversation_id = asked.conversation_id or f"test-conversation-{number}"
        turn_id = f"test-turn-{number}"
        return Told(call, request, AcceptedTurn(turn_id, turn_id, conversation_id, 1, duplicate=bool(before)))


async def stream_operation(
    bundle: Bundle,
    operation: str,
    data: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    user: User = TEST_USER,
    installation: Installation | None = None,
) -> AsyncGenerator[Any]:
    """The items of an operation that streams, or the one answer of one that does not. Raises OperationError.

    ``data`` is what a client sends, as JSON types. When it is left before the end, the operation is cancelled.
    """
    answering = installation or Installation()
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[FromHost] = asyncio.Queue()

    def hear(message: FromHost) -> None:
        message = _over_the_wire(message, _from_host)
        if isinstance(message, AskConversation | AskTurn):
            loop.call_soon(tell, answering.told(message))
        else:
            heard.put_nowait(message)

    def tell(message: CallCredit | Told) -> None:
        run.receive(_over_the_wire(message, _to_host))

    given = b"" if data is None else msgspec.json.encode(data)
    call = Call(1, operation, given, user, dict(config or {}), dict(secrets or {}), {}, "test-request")
    run = CallRun(Operations(bundle.operations), _over_the_wire(call, _to_host), hear)
    try:
        while not isinstance(message := await heard.get(), Returned):
            assert isinstance(message, Item)
            yield msgspec.json.decode(message.data)
            tell(CallCredit(1, len(message.data)))
        if message.how == "answered":
            yield msgspec.json.decode(message.data)
        elif message.how != "ended":
            raise _operation_error(operation, message)
    finally:
        run.cancel()
        await asyncio.wait([run.task])


async def run_operation(bundle: Bundle, operation: str, data: Any = None, **options: Any) -> Any:
    """Runs an operation and gives its answer, or the list of its items if it streams. Raises OperationError.

    ``options`` are those of ``stream_operation``.
    """
    items = [item async for item in stream_operation(bundle, operation, data, **options)]
    return items if operation in bundle.operations and bundle.operations[operation].streams else items[0]


def _operation_error(operation: str, returned: Returned) -> OperationError:
    match returned.how:
        case "unknown":
            return OperationError("unknown_operation", f"There is no operation {operation!r}.", "")
        case "invalid":
            return OperationError("invalid_input", f"{returned.field}: {returned.message}", "", returned.field)
        case "too_large":
            return OperationError("result_too_large", "The result is too large.", returned.detail)
        case _:
            return OperationError(returned.code, returned.message, returned.detail)


class OperationError(Exception):
    """The operation failed; ``detail`` is the traceback of an error that was not a BundleError, ``field`` what of the
    data is wrong.
    """

    def __init__(self, code: str, message: str, detail: str, field: str | None = None) -> None:
        super().__init__("\n".join(part for part in (f"{code}: {message}", detail) if part))
        self.code = code
        self.message = message
        self.detail = detail
        self.field = field

"""The wire between proc and a bundle host: what is said on the Unix socket, and in which frames.

A frame is a big-endian 32-bit length and a msgpack array of messages, at most ``MAX_FRAME_BYTES`` long. Everything
that one side says within a tick of its loop goes out as one frame in one write. A message is a msgpack array that
begins with its tag; ``turn`` and ``call`` are numbers that proc gives out, unique within one host process.

The beat goes by a pipe of its own, a byte each second, written by a thread. The byte (``lag_byte``) says how long the
host's event loop kept others waiting.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

MAX_FRAME_BYTES = 4 * 1024 * 1024
MAX_DELTA_BYTES = 32 * 1024
"""A longer delta is sent as several."""
MAX_EVENT_BYTES = 256 * 1024
"""Of one step, citation or other service event, as JSON."""
MAX_STATE_BYTES = 1024 * 1024
"""Of ``turn.state``, of an operation's answer, and of what it reads of a conversation, as JSON."""
CREDIT_BYTES = 256 * 1024
"""What a turn may have sent of text, or an operation of items, without proc having acknowledged it (rule 23)."""
CREDIT_STEP_BYTES = CREDIT_BYTES // 4
"""Proc acknowledges so much at once: most turns never need it. With the longest delta it is less than the credit, so
what waits for an acknowledgement gets it."""
BEAT_S = 1.0
_LAG_STEPS = 16
"""To a doubling of what a beat can say, which ends at 60 s."""
PROC_SILENCE_S = 7.0
"""A host whose proc gives no sign of life for so long ends itself. Leases are renewed every 5 of 15 s: those of a proc
that stands still last for 9.5 s more at least."""


def lag_byte(seconds: float | None) -> int:
    """A beat. None: it is not known."""
    if seconds is None:
        return 0
    return max(1, min(255, round(_LAG_STEPS * math.log2(1 + 1000 * max(0.0, seconds))) + 1))


def lag_of(beat: int) -> float | None:
    """The seconds that a beat says, to 5 %; None when it does not know."""
    return None if beat == 0 else (2 ** ((beat - 1) / _LAG_STEPS) - 1) / 1000


class User(msgspec.Struct, frozen=True):
    """Who sent the message."""

    id: str
    type: str
    """``privileged``, ``paid``, ``registered``, ``anonymous`` or ``external``."""
    roles: tuple[str, ...] = ()


class HistoryItem(msgspec.Struct, frozen=True):
    """One message of the conversation before this turn, oldest first."""

    role: str
    """``user`` or ``assistant``."""
    text: str
    turn_id: str = ""


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operation as its bundle declares it. ``input`` and ``output`` are JSON schemas, whose references lead into
    ``Loaded.schemas``; ``output`` is that of each item where it ``streams``.
    """

    name: str
    input: dict[str, Any] = {}
    output: dict[str, Any] = {}
    description: str = ""
    takes_data: bool = True
    needs_data: bool = False
    streams: bool = False
    public: bool = False
    required_user_type: str | None = None
    timeout_s: float | None = None


class ConversationTurn(msgspec.Struct, frozen=True):
    """One turn of a conversation. ``task_id`` is the internal id, ``turn_id`` the client's."""

    turn_id: str
    task_id: str
    bundle_id: str
    state: str
    """``queued``, ``running``, ``completed``, ``failed``, ``cancelled`` or ``interrupted``."""
    text: str
    answer: str = ""


class Conversation(msgspec.Struct, frozen=True):
    """A conversation of the caller: the turns of its active branch and those that wait, oldest first."""

    conversation_id: str
    title: str
    turns: list[ConversationTurn] = []
    complete: bool = True
    """Whether these are all of them: of a long conversation there are the latest, 1 MiB in all."""


class AcceptedTurn(msgspec.Struct, frozen=True):
    """A turn that was accepted for good. ``task_id`` is the internal id, ``turn_id`` the client's."""

    turn_id: str
    task_id: str
    conversation_id: str
    position: int = 0
    """In the queue: 1 is next, 0 does not wait."""
    duplicate: bool = False
    """It had been accepted before, under the same key."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag_field="tag"):
    """An array that begins with the number of its kind."""


# ---- proc to host -------------------------------------------------------------------------------------------------


class Load(_Message, frozen=True, tag=1):
    """The first message: which code to load, and the bundle id that it must have. Answered by Loaded or LoadFailed."""

    path: str
    module: str | None
    bundle_id: str


class StartTurn(_Message, frozen=True, tag=2):
    """Run the bundle's message handler."""

    turn: int
    turn_id: str
    attempt: int
    text: str
    payload: dict[str, Any]
    user: User
    history: list[HistoryItem]
    state: dict[str, Any]
    config: dict[str, Any]
    secrets: dict[str, str]
    unreadable: dict[str, str] = {}
    """Granted secrets that could not be read, with the reasons."""
    traceparent: str = ""
    tracestate: str = ""


class Credit(_Message, frozen=True, tag=3):
    """So much of the turn's text is in the log."""

    turn: int
    n_bytes: int


class Steer(_Message, frozen=True, tag=4):
    """A message for a running turn. It waits in the inbox until the bundle takes it."""

    turn: int
    steer_id: str
    text: str
    payload: dict[str, Any]


class Applied(_Message, frozen=True, tag=5):
    """The answer to Apply: the steers that the bundle may take. The others went elsewhere."""

    turn: int
    request: int
    steer_ids: list[str]


class Cancel(_Message, frozen=True, tag=6):
    """Stop the turn. Answered by Ended."""

    turn: int
    reason: str


class Call(_Message, frozen=True, tag=7):
    """Run an operation. Answered by Items, if it streams, and by Returned."""

    call: int
    operation: str
    data: bytes
    """JSON; empty when none was given."""
    user: User
    config: dict[str, Any]
    secrets: dict[str, str]
    unreadable: dict[str, str] = {}
    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""


class CancelCall(_Message, frozen=True, tag=8):
    """Nobody waits for the operation any more. Answered by Returned."""

    call: int


class Stop(_Message, frozen=True, tag=9):
    """Leave, at once: nothing runs here any more."""


class CallCredit(_Message, frozen=True, tag=10):
    """So much of the operation's items has gone on to its caller."""

    call: int
    n_bytes: int


class Told(_Message, frozen=True, tag=11):
    """The answer to AskConversation or AskTurn, or why there is none when ``code`` is set."""

    call: int
    request: int
    data: Any = None
    code: str = ""
    message: str = ""
    field: str | None = None
    retry_after_s: float | None = None


ToHost = Load | StartTurn | Credit | Steer | Applied | Cancel | Call | CancelCall | Stop | CallCredit | Told


# ---- host to proc -------------------------------------------------------------------------------------------------


class Loaded(_Message, frozen=True, tag=1):
    """The bundle is ready."""

    max_attempts: int
    operations: list[Operation]
    schemas: dict[str, Any] = {}


class LoadFailed(_Message, frozen=True, tag=2):
    """The bundle cannot be loaded. One line, with file and line where there is one."""

    message: str


class Delta(_Message, frozen=True, tag=3, gc=False):
    """A piece of text. Adjacent deltas of one marker may be joined."""

    turn: int
    text: str
    marker: str = "answer"

    @property
    def n_bytes(self) -> int:
        """What it costs of the turn's credit: its length in UTF-8."""
        return text_bytes(self.text)


class Step(_Message, frozen=True, tag=4):
    """``event`` is ``{step, title, status, agent?, markdown?}``; ``data`` whatever the bundle adds."""

    turn: int
    event: dict[str, Any]
    data: dict[str, Any] | None = None


class Service(_Message, frozen=True, tag=5):
    """An event with a meaning of its own: ``turn.citations``, ``turn.followups``, ``turn.usage``."""

    turn: int
    type: str
    data: Any


Emit = Delta | Step | Service
"""What a turn shows, in order."""


class Apply(_Message, frozen=True, tag=6):
    """The bundle wants to take these steers. Answered by Applied."""

    turn: int
    request: int
    steer_ids: list[str]


class Ended(_Message, frozen=True, tag=7):
    """The handler is done; nothing of this turn follows."""

    turn: int
    how: str
    """``completed``, ``failed`` or ``cancelled``."""
    state: dict[str, Any] | None = None
    """The new state when it changed (``completed`` only)."""
    code: str = ""
    message: str = ""
    retryable: bool = False
    detail: str = ""
    """For the operator's log, never for the user: the traceback of an unexpected error."""
    untaken_steers: list[str] = []
    """Applied, but the handler ended before it had them."""


class Returned(_Message, frozen=True, tag=8):
    """How an operation ended; nothing of it follows."""

    call: int
    how: str
    """``answered`` (with ``data``), ``ended`` (all items were sent), ``failed`` (in the bundle's words),
    ``invalid`` (the data at ``field``), ``refused`` (what it asked for), ``no_secret`` (``field`` names the one that
    cannot be read), ``crashed``, ``too_large``, ``unknown`` or ``cancelled``.
    """
    data: bytes = b""
    """JSON."""
    code: str = ""
    message: str = ""
    field: str = ""
    refused: int = 0
    """The request of the call that was refused."""
    detail: str = ""
    """For the operator's log, never for the caller."""


class Item(_Message, frozen=True, tag=9, gc=False):
    """One item of an operation that streams, as JSON."""

    call: int
    data: bytes


class AskConversation(_Message, frozen=True, tag=10):
    """The operation wants to read a conversation of its caller. Answered by Told: a Conversation, or None."""

    call: int
    request: int
    conversation_id: str


class AskTurn(_Message, frozen=True, tag=11):
    """The operation sends a message for its caller. Answered by Told: an AcceptedTurn."""

    call: int
    request: int
    text: str
    conversation_id: str | None = None
    payload: dict[str, Any] = {}
    idempotency_key: str | None = None
    policy: str | None = None


FromHost = Loaded | LoadFailed | Delta | Step | Service | Apply | Ended | Returned | Item | AskConversation | AskTurn


# ---- frames -------------------------------------------------------------------------------------------------------


def text_bytes(text: str) -> int:
    """Length in UTF-8. Lone surrogates, which UTF-8 cannot say, raise UnicodeEncodeError."""
    return len(text) if text.isascii() else len(text.encode())


class WireError(Exception):
    """The other side broke the protocol of the wire."""


_LENGTH = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()
_MESSAGES_PER_FRAME = 1024

encode_message = _ENCODER.encode

T = TypeVar("T")


def encode_frames(messages: list[Any]) -> list[bytes]:
    """Frames that carry ``messages`` in order. Raises WireError when one message alone is over the limit."""
    if len(messages) > _MESSAGES_PER_FRAME:
        frames: list[bytes] = []
        for start in range(0, len(messages), _MESSAGES_PER_FRAME):
            frames += encode_frames(messages[start : start + _MESSAGES_PER_FRAME])
        return frames
    body = _ENCODER.encode(messages)
    if len(body) <= MAX_FRAME_BYTES:
        return [_LENGTH.pack(len(body)), body]
    if len(messages) == 1:
        raise WireError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    half = len(messages) // 2
    return encode_frames(messages[:half]) + encode_frames(messages[half:])


class FrameReader(Generic[T]):
    """Takes bytes as they come and gives the messages of every frame that is complete."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[T]]) -> None:
        self._decode = decoder.decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Raises WireError on a frame that is too long or not in the language."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        messages: list[T] = []
        view = memoryview(buffer)
        try:
            while end - at >= 4:
                (length,) = _LENGTH.unpack_from(view, at)
                if length > MAX_FRAME_BYTES:
                    raise WireError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
                if end - at - 4 < length:
                    break
                try:
                    messages += self._decode(view[at + 4 : at + 4 + length])
                except (msgspec.DecodeError, RecursionError) as error:
                    raise WireError(f"a frame that cannot be read: {error}") from error
                at += 4 + length
        finally:
            view.release()
        del buffer[:at]
        return messages


to_host_decoder = msgspec.msgpack.Decoder(list[ToHost])
from_host_decoder = msgspec.msgpack.Decoder(list[FromHost])


class Channel(asyncio.Protocol, Generic[T]):
    """One end of the wire. ``send`` collects; what a loop tick collected goes out in one write.

    ``on_messages`` gets messages in order; ``on_lost`` is called once, with the WireError that ended it, if any.
    ``on_read`` is told how many seconds each read took, with what ``on_messages`` did.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[list[T]],
        on_messages: Callable[[list[T]], None],
        on_lost: Callable[[WireError | None], None],
        on_read: Callable[[float], None] | None = None,
    ) -> None:
        self._reader = FrameReader(decoder)
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._on_read = on_read
        self._outbox: list[Any] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._error: WireError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        began = time.perf_counter()
        try:
            messages = self._reader.feed(data)
        except WireError as error:
            self.fail(error)
            return
        self._on_messages(messages)
        if self._on_read is not None:
            self._on_read(time.perf_counter() - began)

    def pause(self) -> None:
        """Nothing is read until ``resume``; the other side waits when the socket is full."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self._error)

    def send(self, message: Any) -> None:
        """Never waits; what is sent after the connection is lost goes nowhere."""
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.append(message)

    def flush(self) -> None:
        """Writes what was collected."""
        outbox = self._outbox
        if not outbox:
            return
        self._outbox = []
        if self._transport is None:
            return
        try:
            self._transport.writelines(encode_frames(outbox))
        except WireError as error:
            self.fail(error)

    def fail(self, error: WireError) -> None:
        """Ends the connection because of ``error``."""
        self._error = self._error or error
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

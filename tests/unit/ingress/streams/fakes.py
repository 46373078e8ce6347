"""Stand-ins for the stores that streams read: one small working state, with messages that tests deliver or lose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kdcube.postgres.records import StoredTurn
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.protocol.events import Fold, Kind, decode_body, encode_line
from kdcube.protocol.heads import head_of
from kdcube.protocol.turns import TurnState
from kdcube.redis.eventlog import LogPage
from kdcube.redis.feed import FeedPage
from kdcube.redis.keys import Keys
from kdcube.redis.queue import QueuePosition

KEYS = Keys("t", "p")


def head(turn_id: str, user: str = "ada") -> bytes:
    return head_of(
        request_id="r",
        tenant="t",
        project="p",
        user_id=user,
        user_type="registered",
        session_id="s",
        conversation_id=f"c-{turn_id[:4]}",
        client_turn_id=f"client-{turn_id[:4]}",
        turn_id=turn_id,
        bundle_id="echo",
        bundle_version="1",
    )


def delta(text: str, attempt: int = 1) -> bytes:
    members = {"text": text, "marker": "answer", "index": 0, "completed": False}
    return encode_line(Kind.DELTA, "chat.delta", ts_ms=1, attempt=attempt, delta=members)


def started(attempt: int = 1) -> bytes:
    return encode_line(Kind.START, "chat.start", ts_ms=1, attempt=attempt, data={"message": "m"})


def completed(answer: str = "", state: TurnState = TurnState.COMPLETED) -> bytes:
    return terminal_line(state, ts_ms=1, attempt=1, answer=answer)


def stored(
    turn_id: str, *, user: str = "ada", state: TurnState = TurnState.QUEUED, answer: str | None = None
) -> StoredTurn:
    return StoredTurn(
        turn_id=turn_id,
        client_turn_id=f"client-{turn_id[:4]}",
        conversation_id=f"c-{turn_id[:4]}",
        user_id=user,
        user_type="registered",
        session_id="s",
        request_id="r",
        bundle_id="echo",
        bundle_version="1",
        content_hash="h",
        state=state,
        attempt=1,
        claim_id=None,
        worker_id=None,
        admitted_order=1,
        accepted_ms=1,
        queued_ms=1,
        started_ms=None,
        ended_ms=None,
        parent_turn_id=None,
        steer_of=None,
        cancel_requested=False,
        message="m",
        answer=answer,
        text_by_marker={"answer": answer} if answer else {},
        steps=[],
        services=[],
        error=None,
        bundle_state=None,
        usage=[],
        feedback_reaction=None,
        feedback_text=None,
    )


@dataclass
class Log:
    incarnation: int = 1
    head: bytes = b""
    batches: list[list[bytes]] = field(default_factory=list)
    closed: bool = False

    @property
    def tail(self) -> int:
        return sum(map(len, self.batches))

    @property
    def lines(self) -> list[bytes]:
        return [line for batch in self.batches for line in batch]


class FakeValkey:
    """Logs, feeds and channels. ``auto``: messages are delivered at once; else they wait in ``undelivered``."""

    def __init__(self, *, auto: bool = True, page_batches: int = 3) -> None:
        self.epoch: int | None = 1
        self.logs: dict[str, Log] = {}
        self.known: set[str] = set()
        self.feeds: dict[str, Feed] = {}
        self.up = True
        self.back = asyncio.Event()
        self.auto = auto
        self.reads = 0
        self.gate: list[asyncio.Future[None]] | None = None
        """When a list, each read waits there for its reply."""
        self.page_batches = page_batches
        self.channels: list[FakeChannels] = []
        self.positions: dict[str, QueuePosition] = {}
        self.asked_positions = 0

    def subscriber(self) -> FakeChannels:
        channels = FakeChannels(self)
        self.channels.append(channels)
        return channels

    # --- what the scripts do

    def publish(self, channel: str, payload: bytes) -> None:
        for channels in self.channels:
            channels.receive(channel, payload)

    def start(self, turn_id: str, attempt: int = 1) -> None:
        self.known.add(turn_id)
        log = self.logs.setdefault(turn_id, Log())
        log.head = head(turn_id)
        self._append(turn_id, [started(attempt)], log.head)

    def append(self, turn_id: str, lines: list[bytes], *, carried: bool = True) -> None:
        self._append(turn_id, lines, carried=carried)

    def reopen(self, turn_id: str, text: str, *, attempt: int = 1) -> None:
        """Another incarnation that begins with a snapshot which says ``text``."""
        self.known.add(turn_id)
        old = self.logs.get(turn_id)
        self.logs[turn_id] = Log((old.incarnation if old else 0) + 1, head(turn_id))
        fold = Fold(turn_id)
        fold.attempt, fold.state = attempt, "running"
        fold.delta("answer", text)
        data = msgspec.to_builtins(fold.snapshot())
        line = encode_line(Kind.SNAPSHOT, "turn.snapshot", ts_ms=1, attempt=attempt, data=data)
        self._append(turn_id, [line], head(turn_id))

    def finish(self, turn_id: str, line: bytes | None = None) -> None:
        log = self.logs.setdefault(turn_id, Log())
        log.closed = True
        self._append(turn_id, [line or completed()])
        self.known.discard(turn_id)

    def expire(self, turn_id: str) -> None:
        self.logs.pop(turn_id, None)
        self.known.discard(turn_id)

    def text(self, turn_id: str) -> str:
        """What the log says."""
        fold = Fold(turn_id)
        fold.add_all(self.logs[turn_id].lines)
        return fold.text()

    def _append(self, turn_id: str, lines: list[bytes], head_: bytes = b"", *, carried: bool = True) -> None:
        log = self.logs[turn_id]
        previous = log.tail
        log.batches.append(lines)
        status = "closed" if log.closed else "open"
        header = f"{self.epoch} {log.incarnation} {previous} {log.tail} {status} {len(head_)}\n".encode()
        self.publish(KEYS.log_channel(turn_id), header + head_ + (b"\n".join(lines) if carried else b""))

    # --- EventLogs

    async def read(self, turn_id: str, after: int = 0) -> LogPage:
        self.reads += 1
        if not self.up:
            raise StoreUnavailable("valkey", "away")
        log = self.logs.get(turn_id)
        known = turn_id in self.known
        if log is None:
            page = LogPage(self.epoch, known, False, 0, 0, False, b"", after, [])
        else:
            lines: list[bytes] = []
            offset, at, taken = after, 0, 0
            for batch in log.batches:
                at += len(batch)
                if at > after and taken < self.page_batches:
                    taken += 1
                    lines.extend(batch[max(0, offset - (at - len(batch))) :])
                    offset = at
            page = LogPage(self.epoch, known, True, log.incarnation, log.tail, log.closed, log.head, offset, lines)
        await self._reply()
        return page

    async def _reply(self) -> None:
        if self.gate is not None:
            waiting = asyncio.get_running_loop().create_future()
            self.gate.append(waiting)
            await waiting
        if not self.up:
            raise StoreUnavailable("valkey", "away")


@dataclass
class Feed:
    name: str
    first: int = 1
    events: list[dict[str, Any]] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)

    @property
    def tail(self) -> int:
        return self.first - 1 + len(self.events)


class FakeFeeds:
    def __init__(self, valkey: FakeValkey) -> None:
        self._valkey = valkey

    async def read(self, user_id: str, after: int | None) -> FeedPage:
        valkey = self._valkey
        if not valkey.up:
            raise StoreUnavailable("valkey", "away")
        feed = valkey.feeds.get(user_id)
        if feed is None:
            return FeedPage(valkey.epoch, "", 0, 0, {}, [])
        events = [] if after is None else [(n, e) for n, e in enumerate(feed.events, feed.first) if n > after][:5]
        page = FeedPage(valkey.epoch, feed.name, feed.tail, feed.first if feed.events else 0, dict(feed.live), events)
        await valkey._reply()
        return page

    def add(self, user_id: str, event: dict[str, Any]) -> int:
        feed = self._valkey.feeds.setdefault(user_id, Feed("aaaaaaaa"))
        feed.events.append(event)
        self._valkey.publish(
            KEYS.feed_channel(user_id), f"{feed.name} {feed.tail}\n".encode() + msgspec.json.encode(event)
        )
        return feed.tail

    def turn(self, user_id: str, type_: str, turn_id: str, **more: Any) -> None:
        event = {
            "type": type_,
            "turn_id": turn_id,
            "client_turn_id": f"client-{turn_id[:4]}",
            "conversation_id": f"c-{turn_id[:4]}",
            **more,
        }
        offset = self.add(user_id, event)
        live = self._valkey.feeds[user_id].live
        if type_ == "turn.accepted":
            live[turn_id] = offset
        elif type_ in ("turn.ended", "turn.withdrawn"):
            live.pop(turn_id, None)


class FakeChannels:
    """A Subscriber: None comes first, on the loop's next tick."""

    def __init__(self, valkey: FakeValkey) -> None:
        self._valkey = valkey
        self.listeners: dict[str, list[Callable[[bytes | None], None]]] = {}
        self.undelivered: list[tuple[str, bytes | None]] = []
        self.delivered: list[tuple[str, bytes | None]] = []

    def subscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        self.listeners.setdefault(channel, []).append(listener)
        asyncio.get_running_loop().call_soon(self.receive, channel, None)

    def unsubscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        self.listeners[channel].remove(listener)
        if not self.listeners[channel]:
            del self.listeners[channel]

    def receive(self, channel: str, payload: bytes | None) -> None:
        if channel not in self.listeners or not self._valkey.up:
            return
        if self._valkey.auto or payload is None:
            self._tell(channel, payload)
        else:
            self.undelivered.append((channel, payload))

    def deliver(self, index: int = 0) -> None:
        message = self.undelivered.pop(index)
        self.delivered.append(message)
        self._tell(*message)

    def repeat(self, index: int) -> None:
        """A message that was delivered before comes again."""
        self._tell(*self.delivered[index])

    def reconnect(self) -> None:
        """The socket was lost with all that was on its way, and is back."""
        self.undelivered.clear()
        for channel in tuple(self.listeners):
            self._tell(channel, None)

    def _tell(self, channel: str, payload: bytes | None) -> None:
        for listener in tuple(self.listeners.get(channel, ())):
            listener(payload)


class FakeTurns:
    def __init__(self) -> None:
        self.rows: dict[str, StoredTurn] = {}
        self.up = True

    def add(self, row: StoredTurn) -> None:
        self.rows[row.turn_id] = row

    async def get(self, turn_id: str, user_id: str | None = None) -> StoredTurn | None:
        if not self.up:
            raise StoreUnavailable("postgres", "away")
        row = self.rows.get(turn_id)
        return row if row is None or user_id in (None, row.user_id) else None

    async def find(self, user_id: str, id_: str) -> StoredTurn | None:
        for row in self.rows.values():
            if row.user_id == user_id and id_ in (row.turn_id, row.client_turn_id):
                return row
        return None


class FakeQueue:
    def __init__(self, valkey: FakeValkey) -> None:
        self._valkey = valkey

    async def positions(self, turn_ids: Sequence[str], *, epoch: int) -> list[QueuePosition]:
        self._valkey.asked_positions += 1
        if epoch != self._valkey.epoch:
            raise EpochMismatch
        return [self._valkey.positions.get(turn, QueuePosition(None, 0, 0)) for turn in turn_ids]


class FakeEpoch:
    def __init__(self, valkey: FakeValkey) -> None:
        self._valkey = valkey
        self.suspected = 0

    @property
    def current(self) -> int:
        if self._valkey.epoch is None:
            raise EpochMismatch
        return self._valkey.epoch

    def suspect(self) -> None:
        self.suspected += 1

    async def wait_for(self) -> int:
        """Until the test says that there is one: ``valkey.back.set()``."""
        await self._valkey.back.wait()
        self._valkey.back.clear()
        return 1


def bodies(lines: list[bytes]) -> list[dict[str, Any]]:
    return [decode_body(line) for line in lines]

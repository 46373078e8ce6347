"""A partition on a real server, as tests use it, and what must be true of its working state at all times."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnEnvelope, TurnState, UserType
from kdcube.redis.admission import (
    Admission,
    AdmissionLimits,
    Admitted,
    ClassLimits,
    Delivered,
    Duplicate,
    Rejected,
    Unproven,
)
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.feed import Feeds
from kdcube.redis.keys import Keys
from kdcube.redis.queue import DEFAULT_SHARES, Claim, ClassShare, Fenced, Opened, Queue, Stopped
from kdcube.redis.steer import Steers
from kdcube.redis.subscriber import open_subscriber
from kdcube.redis.workers import DOORBELL_CAP, Workers

BUNDLE = "echo@1"
HEAD = b'"conversation":{}'
UNLIMITED = ClassLimits(burst=-1, burst_window_s=60, hourly=-1, pressure_threshold=1e9)
NO_LIMITS = AdmissionLimits(
    classes=dict.fromkeys(UserType, UNLIMITED),
    hard_limit_threshold=1e9,
    capacity_buffer=0.0,
    queue_depth_multiplier=1.0,
    max_queue_size=-1,
    live_per_user=10**9,
)
SEP = "\x1f"

_KINDS = {TurnState.COMPLETED: Kind.COMPLETE, TurnState.CANCELLED: Kind.COMPLETE}


def a_message(
    user: str = "ann",
    conversation: str | None = None,
    *,
    turn_id: str | None = None,
    user_type: UserType = UserType.PAID,
    bundle: str = BUNDLE,
    policy: Policy = Policy.ENQUEUE,
    text: str = "Hello",
    session: str | None = None,
    version: int = 1,
) -> TurnEnvelope:
    """What a client sent; in a conversation of its own unless one is given."""
    turn_id = turn_id or new_id()
    return TurnEnvelope(
        turn_id=turn_id,
        client_turn_id=f"turn_{turn_id[:8]}",
        tenant="acme",
        project="support",
        user_id=user,
        user_type=user_type,
        session_id=session or f"session-of-{user}",
        request_id="request",
        conversation_id=conversation or f"conversation-{turn_id[:8]}",
        bundle_id=bundle,
        text=text,
        content_hash=f"hash of {text}",
        policy=policy,
        version=version,
    )


def a_line(text: str = "x") -> bytes:
    return encode_line(Kind.DELTA, "chat.delta", ts_ms=1, attempt=1, delta={"text": text, "marker": "answer"})


def terminal_line(state: TurnState = TurnState.COMPLETED, *, attempt: int = 0) -> bytes:
    kind = _KINDS.get(state, Kind.ERROR)
    return encode_line(kind, f"chat.{kind}", ts_ms=1, attempt=attempt, data={"state": state})


class Partition:
    """One partition with everything that works on it, under ``epoch``."""

    def __init__(
        self,
        connection: Connection,
        url: str,
        *,
        limits: AdmissionLimits = NO_LIMITS,
        shares: Mapping[UserType, ClassShare] = DEFAULT_SHARES,
        running_per_user: int = 8,
        lease_s: float = 15.0,
    ) -> None:
        self.connection = connection
        self.url = url
        self.keys = keys = Keys("acme", "support")
        self.admission = Admission(connection, keys, dataclasses.replace(limits, running_per_user=running_per_user))
        self.queue = Queue(connection, keys, shares=shares, running_per_user=running_per_user, lease_s=lease_s)
        self.logs = EventLogs(connection, keys)
        self.feeds = Feeds(connection, keys)
        self.steers = Steers(connection, keys)
        self.state = WorkingState(connection, keys, lease_s=lease_s, running_per_user=running_per_user)
        self.workers = Workers(connection, keys)
        self.epoch = 1

    async def open(self, slots: int = 100) -> Partition:
        """Publishes the epoch and lets one worker with ``slots`` live."""
        assert await self.state.begin(self.epoch)
        assert await self.state.publish(self.epoch, max_order=0, run_id="run")
        if slots:
            await self.workers.beat("worker", slots=slots, info={})
        return self

    # --- the steps of a turn --------------------------------------------------------------------------------------

    async def admit(
        self, message: TurnEnvelope, nonce: str | None = None
    ) -> Admitted | Delivered | Duplicate | Unproven | Rejected:
        """As ingress does, in a PostgreSQL that has no turn which ended."""
        return await self.admission.admit(message, epoch=self.epoch, nonce=nonce or new_id(), proven=True)

    async def admitted(self, *args: Any, **kwargs: Any) -> TurnEnvelope:
        """Admits a message of these arguments (see ``a_message``)."""
        message = a_message(*args, **kwargs)
        assert isinstance(await self.admit(message), Admitted)
        return message

    async def claim(
        self,
        count: int = 1,
        *,
        room: Mapping[str, int] | None = None,
        worker: str = "worker",
        revision: str = "r1",
        claim_ids: Sequence[str] | None = None,
    ) -> list[Claim]:
        outcome = await self.queue.claim(
            epoch=self.epoch,
            worker_id=worker,
            revision=revision,
            room={BUNDLE: 1000} if room is None else room,
            claim_ids=claim_ids or [new_id() for _ in range(count)],
        )
        assert not isinstance(outcome, Stopped)
        return outcome

    async def claimed(self, message: TurnEnvelope) -> Claim:
        """Claims ``message``, which is next."""
        [claim] = await self.claim(room={message.bundle_id: 1})
        assert claim.envelope == message
        return claim

    async def start(self, claim: Claim, attempt: int = 1) -> Opened | Fenced:
        line = encode_line(Kind.START, "chat.start", ts_ms=1, attempt=attempt)
        return await self.queue.start(
            claim.envelope, claim.claim_id, epoch=self.epoch, attempt=attempt, head=HEAD, line=line
        )

    async def running(self, message: TurnEnvelope) -> Claim:
        """Claims and starts ``message``, which is next."""
        claim = await self.claimed(message)
        assert isinstance(await self.start(claim), Opened)
        return claim

    async def append(self, claim: Claim, seq: int, tail: int, *texts: str) -> Any:
        lines = [a_line(text) for text in texts]
        return await self.logs.append(
            claim.envelope.turn_id,
            claim.claim_id,
            epoch=self.epoch,
            seq=seq,
            tail=tail,
            count=len(lines),
            lines=b"\n".join(lines),
        )

    async def finish(
        self,
        of: Claim | TurnEnvelope,
        state: TurnState = TurnState.COMPLETED,
        *,
        discarded: Sequence[str] = (),
        lingers: bool = False,
    ) -> bool:
        """Ends the turn under a claim, or whoever holds it."""
        envelope, claim_id = (of.envelope, of.claim_id) if isinstance(of, Claim) else (of, None)
        return await self.queue.finish(
            envelope,
            claim_id,
            epoch=self.epoch,
            state=state,
            line=terminal_line(state),
            discarded=discarded,
            lingers=lingers,
        )

    async def run_all(self, room: Mapping[str, int] | None = None) -> list[str]:
        """Runs everything that waits, one turn at a time; the turns in the order of their claims."""
        order: list[str] = []
        while claims := await self.claim(room=room):
            order.append(claims[0].envelope.turn_id)
            await self.start(claims[0])
            await self.finish(claims[0])
        return order

    async def run_some(self, count: int, *, room: Mapping[str, int] | None = None) -> list[Claim]:
        """Claims and ends ``count`` turns, one at a time."""
        ran: list[Claim] = []
        for _ in range(count):
            [claim] = await self.claim(room=room)
            await self.finish(claim)
            ran.append(claim)
        return ran

    async def let_lease_expire(self, turn_id: str) -> None:
        await self.connection.call("ZADD", self.keys.leases, "XX", 1, turn_id)

    async def feed_events(self, user: str = "ann") -> list[dict[str, Any]]:
        page = await self.feeds.read(user, 0)
        assert [offset for offset, _ in page.events] == list(range(1, page.tail + 1))
        return [event for _, event in page.events]

    async def receipts(self, steer_id: str, user: str = "ann") -> list[str]:
        events = await self.feed_events(user)
        return [e["state"] for e in events if e["type"] == "steer.receipt" and e["turn_id"] == steer_id]

    async def log_lines(self, turn_id: str) -> list[bytes]:
        lines: list[bytes] = []
        while True:
            page = await self.logs.read(turn_id, len(lines))
            if not page.lines:
                assert len(lines) == page.tail
                return lines
            lines += page.lines

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncGenerator[asyncio.Queue[bytes]]:
        """What is published on ``channel`` while the context is open."""
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        subscribed = asyncio.Event()

        def listen(payload: bytes | None) -> None:
            if payload is None:
                subscribed.set()
            else:
                heard.put_nowait(payload)

        async with open_subscriber(self.url, name="listener") as subscriber:
            subscriber.subscribe(channel, listen)
            await subscribed.wait()
            yield heard

    @asynccontextmanager
    async def unchanged(self) -> AsyncGenerator[None]:
        """Asserts that the steps inside change nothing at all, but for leases."""
        before = await self._read_all()
        yield
        after = await self._read_all()
        assert after.keys() == before.keys()
        assert [key for key in before if after[key] != before[key]] == []

    async def _read_all(self) -> dict[bytes, Any]:
        """Every key with its value; of leases, only whose they are."""
        keys: list[bytes] = await self.connection.call("KEYS", "*")
        kinds = await asyncio.gather(*(self.connection.call("TYPE", key) for key in keys))
        commands = ([part or key for part in _READS[kind]] for key, kind in zip(keys, kinds, strict=True))
        values = await asyncio.gather(*(self.connection.call(*command) for command in commands))
        read = dict(zip(keys, values, strict=True))
        leases = self.keys.leases.encode()
        return read | {leases: sorted(read.get(leases, []))}

    # --- what must be true ----------------------------------------------------------------------------------------

    async def check(self, *, lossy: bool = False) -> dict[str, dict[str, Any]]:
        """Asserts the invariants of the whole working state; returns its records.

        ``lossy``: turns may have ended while it was lost, of which live lists do not know.
        """
        names = dict(zip(_STATE, self.keys.state(), strict=True))
        read = await self._read_all()
        turns, envelopes, users, conversations, claims, schedule = (
            _text(read.get(names[name].encode(), {})) for name in _HASHES
        )
        queue, parked, held, leases = (
            {member.decode() for member in read.get(names[name].encode(), [])}
            for name in ("queue", "parked", "held", "leases")
        )
        records = {turn: msgspec.msgpack.decode(packed) for turn, packed in turns.items()}
        by_state: defaultdict[str, set[str]] = defaultdict(set)
        for turn, record in records.items():
            by_state[record["s"]].add(turn)
        assert by_state.keys() <= set("qphcrse")
        claimed = by_state["c"] | by_state["r"]

        # Each turn waits in exactly one place, or has a claim, or is what keeps its conversation busy.
        assert queue == {_member(records[turn], turn, "q") for turn in by_state["q"]}
        assert parked == {_member(records[turn], turn, records[turn]["s"]) for turn in by_state["p"] | by_state["s"]}
        assert held == {_member(records[turn], turn, "h") for turn in by_state["h"]}
        assert {turn: claim.decode() for claim, turn in _inverse(claims)} == {
            turn: records[turn]["cl"] for turn in claimed
        }
        assert leases == claimed | by_state["e"]
        assert envelopes.keys() == records.keys() - by_state["e"]

        # A user's count, tags and cap.
        counts = Counter(records[turn]["u"] for turn in by_state["q"] | claimed)
        has = {user: msgspec.msgpack.decode(packed) for user, packed in users.items()}
        assert {user: of["n"] for user, of in has.items()} == counts
        for turn in by_state["q"]:
            record = records[turn]
            tags = has[record["u"]]["tags"] or {}  # an empty one comes as a list
            assert int(record["m"].split(SEP)[2]) <= tags.get(record["c"], 0)
        for turn in by_state["h"]:
            assert counts[records[turn]["u"]] >= self.admission.limits.running_per_user

        # A conversation has one active turn; whatever waits for it waits for something.
        active = {name: value.decode().split(SEP) for name, value in conversations.items()}
        for name, (user, turn) in active.items():
            assert records[turn]["k"] == name and records[turn]["u"] == user and records[turn]["s"] in "qhcre"
        for turn in by_state["q"] | by_state["h"] | by_state["r"] | by_state["e"]:
            assert active[records[turn]["k"]][1] == turn
        for turn in by_state["p"] | by_state["s"] | by_state["c"]:
            assert records[turn]["k"] in active
        for turn in by_state["s"]:
            assert records[records[turn]["of"]]["k"] == records[turn]["k"]

        running = Counter(records[turn]["c"] for turn in claimed)
        counted = {name.split(SEP)[1]: int(n) for name, n in schedule.items() if name.startswith("running" + SEP)}
        assert {name: n for name, n in counted.items() if n} == running
        assert schedule.keys() <= {"order", "pass", "memory", "mean_ms", "unproven_until"} | {
            f"{kind}{SEP}{class_}" for kind in ("pass", "time", "running") for class_ in UserType
        }
        assert len(read.get(names["doorbell"].encode(), [])) <= DOORBELL_CAP

        # Feeds and logs end where they say they do, and a turn is live as long as it is here.
        live: dict[str, set[str]] = {}
        for key, value in read.items():
            what, _, whose = _name(key).partition(":")
            assert what in _KEYS_OF_TURNS if whose else what in {*_STATE, *_OTHER_KEYS}
            if what == "live":
                fields = _text(value)
                live[whose] = fields.keys() - {"#t", "#g"}
                assert read[self.keys.feed(whose).encode()][-1][0] == fields["#t"] + b"-0"
            elif what == "logmeta":
                assert read[self.keys.log(whose).encode()][-1][0] == _text(value)["t"] + b"-0"
        here: defaultdict[str, set[str]] = defaultdict(set)
        for turn, record in records.items():
            if record["s"] != "e":
                here[record["u"]].add(turn)
        if lossy:
            assert all(turns <= live[user] for user, turns in here.items())
        else:
            assert {user: turns for user, turns in live.items() if turns} == here
        return records

    async def check_empty(self, *, lossy: bool = False) -> None:
        """Everything has ended, and has left nothing but what is kept for a while or counts."""
        assert await self.check(lossy=lossy) == {}
        left = {_name(key) for key in await self.connection.call("KEYS", "*")}
        assert left & set(_STATE) <= {"epoch", "schedule", "doorbell", "beats", "slots"}


_READS = {
    b"string": ("GET", None),
    b"hash": ("HGETALL", None),
    b"set": ("SMEMBERS", None),
    b"list": ("LRANGE", None, "0", "-1"),
    b"zset": ("ZRANGE", None, "0", "-1"),
    b"stream": ("XRANGE", None, "-", "+"),
}
"""How each type is read; None stands for the key."""
_HASHES = ("turns", "envelopes", "users", "conversations", "claims", "schedule")
_STATE = (
    *("epoch", "turns", "envelopes", "queue", "parked", "held", "users", "conversations", "leases", "claims"),
    *("schedule", "doorbell", "beats", "slots"),
)
_OTHER_KEYS = ("building", "server", "format", "workers", "stops")
_KEYS_OF_TURNS = ("done", "rate", "addressrate", "log", "logmeta", "feed", "live")


def _name(key: bytes) -> str:
    return key.decode().removeprefix("kd:{acme:support:0}:")


def _text(found: dict[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in found.items()}


def _inverse(claims: dict[str, bytes]) -> list[tuple[bytes, str]]:
    return [(claim.encode(), turn.decode()) for claim, turn in claims.items()]


def _member(record: dict[str, Any], turn: str, state: str) -> str:
    """The member that the record says it is, once it has the parts that it must have."""
    parts = record["m"].split(SEP)
    order = f"{record['o']:015d}"
    match state:
        case "q":
            assert [*parts[:2], *parts[3:]] == [record["c"], record["b"], order, turn]
        case "h":
            assert parts == [record["u"], order, turn]
        case _:
            assert [parts[0], *parts[2:]] == [record["k"], order, turn]
            assert parts[1] in ({"p": "01", "s": "2"}[state])
    return record["m"]


@asynccontextmanager
async def a_partition(url: str, **settings: Any) -> AsyncGenerator[Partition]:
    """A partition on a server that it empties, its epoch published; checked at the end."""
    async with open_connection(url, name="test") as connection:
        await connection.call("FLUSHALL")
        partition = await Partition(connection, url, **settings).open()
        yield partition
        await partition.check()

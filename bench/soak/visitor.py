"""A user who comes, sends, reads, is cut off, comes back, and leaves: with a history of its own, proven when it leaves.

That is what keeps the memory of the proof bounded: a history lives as long as its visitor, some dozen turns.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.system import REPEATABLE
from bench.soak.wire import Address, Answer, Connection, connect, request
from tests.chaos.history import History, Send
from tests.e2e.client import Event, is_mark

from kdcube.protocol.ids import new_id

PATIENCE_S = 180.0
"""For all that a visitor waits for: longer than any fault and what it leaves to be done."""
OPEN_TURNS = 16
"""A visitor who waits for so many sends no more."""
_RECONNECT_S = 0.05
_AGAIN_MAX_S = 2.0
_MARK_AGAIN_S = 5.0
_STORY_CHARS = 1500
_LOST = (ConnectionError, TimeoutError)


@dataclass(slots=True)
class Tally:
    """What all visitors did and saw. Counters only, so that it does not grow."""

    sent: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    checked: int = 0
    """Accepted turns whose visitor has left with a sound history."""
    conversations: int = 0
    ends: Counter[str] = field(default_factory=Counter[str])
    did: Counter[str] = field(default_factory=Counter[str])
    """Of streams and users: opened, cut, held, vanished, cancelled, deleted, ..."""
    events: int = 0
    late: list[float] = field(default_factory=list[float])
    """Seconds from when a message was due to its turn's last event; emptied by whoever reports it."""
    wrong: list[str] = field(default_factory=list[str])

    def found(self, wrong: str) -> None:
        if len(self.wrong) < 100:
            self.wrong.append(wrong)


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares of messages after which, or of streams in which, something happens."""

    streams: float = 0.6
    cut: float = 0.02
    """Of events."""
    held: float = 0.02
    cancelled: float = 0.08
    vanished: float = 0.01
    deleted: float = 0.02
    unheard: float = 0.01
    """Messages whose answer is not waited for; they are sent again under their key."""
    failed: float = 0.01
    leak_bytes: int = 0
    leak_files: int = 0


class Visitor:
    """Anonymous. ``say`` whenever a message is due, ``leave`` in the end."""

    def __init__(
        self, addresses: list[Address], folder: Path, tally: Tally, habits: Habits, choose: random.Random
    ) -> None:
        self._addresses = addresses
        self._tally = tally
        self._habits = habits
        self._choose = choose
        self._name = new_id()
        self._record = folder / f"ran-{self._name}"
        self._history = History()
        self._places = [new_id() for _ in range(choose.randint(1, 4))]
        self._used: set[str] = set()
        self._deleted: set[str] = set()
        self._busy: Counter[str] = Counter()
        self._idle: list[list[Connection]] = [[] for _ in addresses]
        self._reading: set[Connection] = set()
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._awake = asyncio.Event()
        self._marked = asyncio.Event()
        self._open: set[str] = set()
        self._to_fail: set[str] = set()
        self._numbers = 0
        self.messages_left = choose.randint(8, 24)  # counted down by whoever makes it say them
        self._session: str | None = None
        self._user_stream: asyncio.Task[None] | None = None
        self._entering: asyncio.Task[None] | None = None
        self._awake.set()

    @property
    def waits_for(self) -> int:
        """How many of its turns have not ended."""
        return len(self._open)

    # --- what it does

    async def say(self, due: float, *, to_end: bool = False) -> None:
        """One message that was ``due`` then (monotonic seconds), and maybe something else; ``to_end`` of its turn."""
        self._numbers += 1
        number, marker = self._numbers, f"{self._name} {self._numbers}"
        self._open.add(marker)
        try:
            if self._entering is None:
                self._entering = asyncio.create_task(self._enter())
            await asyncio.shield(self._entering)
            send = await self._send(f"{self._name} says {number}")
        finally:
            self._open.discard(marker)
        if send.task_id is not None:
            if to_end or self._choose.random() < self._habits.streams:
                self._follow(send.task_id, due)
            else:
                self._follow(send.task_id, None, quietly=True)
            if to_end:
                await self._streams[send.task_id]
        await self._do_something_else()

    async def leave(self) -> None:
        """Waits until all that was accepted has ended, and proves the history."""
        self._awake.set()
        if self._session is None:
            return
        await asyncio.gather(*self._streams.values())
        for conversation in sorted(self._deleted & self._used):
            await self._ask("POST", f"/conversations/{conversation}/restore", expect=(200,))
        if self._used:
            await self._see_mark(min(self._used))
        assert self._user_stream is not None
        self._user_stream.cancel()
        for connections in self._idle:
            for connection in connections[1:]:
                connection.abort()
            del connections[1:]
        await self._history.collect(self, sorted(self._used), self._record)  # type: ignore[arg-type]
        for idle in self._idle:
            for connection in idle:
                connection.abort()
        self._record.unlink(missing_ok=True)
        self._judge()

    def close(self) -> None:
        """Lets go of everything at once, unproven."""
        for task in (*self._streams.values(), self._user_stream, self._entering):
            if task is not None:
                task.cancel()
        for connection in (*self._reading, *(each for idle in self._idle for each in idle)):
            connection.abort()

    def _judge(self) -> None:
        history, tally = self._history, self._tally
        wrong = history.violations()
        for turn, stored in history.stored.items():
            tally.ends[stored["state"]] += 1
            if stored["state"] == "failed" and stored["message"] not in self._to_fail:
                wrong.append(f"{turn} failed, and nobody told it to: {stored.get('error')}")
        about = [turn for turn in history.stored if any(turn in line for line in wrong)]
        for line in (*wrong, *(story[:_STORY_CHARS] for story in history.story(about[:2]))):
            tally.found(f"{time.strftime('%H:%M:%S')} {line}")
        tally.conversations += len(self._used)
        tally.checked += sum(send.task_id is not None for send in history.sends)
        tally.events += sum(map(len, history.views.values()))

    # --- parts of that

    async def _enter(self) -> None:
        answer = await self._ask("GET", "/profile", expect=(200,))
        self._session = answer.json()["session_id"]
        seen = self._history.view("user")
        ready = asyncio.Event()

        def look(event: Event) -> bool:
            if event.name == "ready":
                ready.set()
            if is_mark(event):
                self._marked.set()
            return False

        path = f"/sse/stream?stream_id={self._name}"
        self._user_stream = asyncio.create_task(self._read(path, seen, look, self._choose.randrange(2)))
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()

    async def _send(self, text: str) -> Send:
        choose, habits = self._choose, self._habits
        bundle = REPEATABLE if choose.random() < 0.2 else None
        orders: dict[str, Any] = {"deltas": choose.randint(1, 40), "delay_ms": choose.choice([0, 0, 1, 4])}
        if choose.random() < habits.failed:
            orders["fail"] = True
            self._to_fail.add(text)
        soak: dict[str, Any] = {"record": str(self._record)}
        if habits.leak_bytes or habits.leak_files:
            soak |= {"leak_bytes": habits.leak_bytes, "leak_files": habits.leak_files}
        conversation = choose.choice(self._places)
        message = {
            "text": text,
            "conversation_id": conversation,
            "policy": choose.choices(["enqueue", "steer", "interrupt", "reject"], [12, 5, 1, 2])[0],
            "payload": {"echo": orders, "soak": soak},
            **({} if bundle is None else {"bundle_id": bundle}),
        }
        send = Send(new_id(), conversation, text)
        self._history.sends.append(send)
        self._tally.sent += 1
        self._busy[conversation] += 1
        try:
            await self._until_clear(send, message)
        finally:
            self._busy[conversation] -= 1
        if send.task_id is None:
            self._tally.refused[str(send.refused)] += 1
        else:
            self._tally.accepted += 1
            self._used.add(conversation)
            if bundle is not None:
                self._history.repeatable.add(send.task_id)
        return send

    async def _until_clear(self, send: Send, message: dict[str, Any]) -> None:
        """Again and again under one key, until it is clear what became of it."""
        body, at = {"message": message}, self._choose.randrange(2)
        if self._choose.random() < self._habits.unheard:
            await self._send_unheard(body, send.key, at)
        pause_s = 0.1
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await self._once("POST", "/sse/chat", at, body, Idempotency_Key=send.key)
                    self._history.outcome(send, answer)  # type: ignore[arg-type]
                    if answer.status_code != 503:
                        return
                except _LOST:
                    send.refused = None  # nobody knows
                self._tally.did["sent again"] += 1
                at += 1
                await asyncio.sleep(pause_s * self._choose.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _AGAIN_MAX_S)

    async def _send_unheard(self, body: object, key: str, at: int) -> None:
        try:
            connection = await connect(self._address(at))
        except _LOST:
            return
        self._tally.did["went before the answer"] += 1
        connection.tell(request("POST", "/sse/chat", self._session, body, Idempotency_Key=key))
        await asyncio.sleep(self._choose.uniform(0, 0.02))
        connection.abort()
        await asyncio.sleep(self._choose.uniform(0, 1))

    async def _do_something_else(self) -> None:
        choose, habits, did = self._choose, self._habits, self._tally.did
        accepted = [send.task_id for send in self._history.sends[-6:] if send.task_id]
        if accepted and choose.random() < habits.cancelled:
            did["cancelled"] += 1
            await self._ask("POST", "/sse/cancel", {"turn_id": choose.choice(accepted)}, expect=(200,))
        if choose.random() < habits.vanished:
            did["vanished"] += 1
            self._awake.clear()
            for connection in tuple(self._reading):
                connection.abort()
            await asyncio.sleep(choose.uniform(0.1, 5))
            self._awake.set()
        if choose.random() < habits.deleted:
            gone = choose.choice(self._places)
            if not self._busy[gone] and gone in self._used:
                did["conversations deleted"] += 1
                self._places[self._places.index(gone)] = new_id()
                self._deleted.add(gone)
                await self._ask("DELETE", f"/conversations/{gone}", expect=(200, 404))

    async def _see_mark(self, conversation: str) -> None:
        """What is told behind the mark needs not be waited for. It is told again when Valkey was away."""
        self._marked.clear()
        async with asyncio.timeout(PATIENCE_S):
            while not self._marked.is_set():
                await self._ask("PATCH", f"/conversations/{conversation}", {"title": "marked"}, expect=(200,))
                try:
                    async with asyncio.timeout(_MARK_AGAIN_S):
                        await self._marked.wait()
                except TimeoutError:
                    pass

    # --- streams

    def _follow(self, turn: str, due: float | None, *, quietly: bool = False) -> None:
        """Reads a turn's stream to its end; ``quietly`` only some time later, as one who opens a page again."""
        if turn in self._streams:  # a steer under a key that was sent again
            return
        seen = self._history.view(f"turn {turn}")
        self._open.add(turn)

        def look(event: Event) -> bool:
            if event.ends_turn and due is not None:
                self._tally.late.append(time.monotonic() - due)
            return event.ends_turn

        async def read() -> None:
            if quietly:
                await asyncio.sleep(self._choose.uniform(0.5, 4))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._read(f"/turns/{turn}/stream", seen, look, self._choose.randrange(2))
            except TimeoutError:
                self._tally.found(f"{turn} did not end for its reader, who saw {[event.name for event in seen]}")
            finally:
                self._open.discard(turn)

        self._streams[turn] = asyncio.create_task(read())

    async def _read(self, path: str, seen: list[Event], done: Callable[[Event], bool], at: int) -> None:
        """Reads into ``seen`` up to an event that is ``done``; cut at random, it goes on at the other process."""
        choose, did = self._choose, self._tally.did
        often = choose.choice([0.0, 0.0, self._habits.cut, 5 * self._habits.cut])
        over = False
        cursor: str | None = None
        connection: Connection

        def take(event: Event) -> None:
            nonlocal over, cursor
            seen.append(event)
            cursor = event.id or cursor
            over = done(event)
            if over or choose.random() < often:
                did["streams cut"] += not over
                connection.abort()

        while not over:
            await self._awake.wait()
            try:
                connection = await connect(self._address(at))
            except _LOST:
                await self._pause()
                at += 1
                continue
            self._reading.add(connection)
            did["streams resumed" if cursor else "streams opened"] += 1
            try:
                resumed = {} if cursor is None else {"Last_Event_ID": cursor}
                refusal = await connection.stream(request("GET", path, self._session, **resumed), take)
                if refusal is None:
                    await self._maybe_hold(connection)
                    await connection.lost
                elif refusal.status_code != 503:
                    self._tally.found(f"{path} was refused with {refusal.status_code}: {refusal.content[:200]!r}")
                    return
            except _LOST:
                pass
            finally:
                self._reading.discard(connection)
                connection.abort()
            at += 1
            if not over:
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._choose.uniform(1, 4) * _RECONNECT_S)

    async def _maybe_hold(self, connection: Connection) -> None:
        if self._choose.random() < self._habits.held and connection.usable:
            self._tally.did["slow readers"] += 1
            connection.hold()
            await asyncio.sleep(self._choose.uniform(0.5, 5))
            connection.go_on()

    # --- requests

    async def stored(self, conversation: str) -> dict[str, dict[str, Any]]:
        """As ``tests.e2e.client.Client.stored``."""
        view = (await self._ask("GET", f"/conversations/{conversation}", expect=(200,))).json()
        turns = {turn["task_id"]: turn for turn in [*view["turns"], *view["pending"], *view["unstarted"]]}
        for turn in view["turns"]:
            turns.update({steer["task_id"]: {**steer, "state": "applied"} for steer in turn["steers"]})
        return turns

    async def _ask(self, method: str, path: str, body: object = None, *, expect: tuple[int, ...]) -> Answer:
        """Again and again until it is answered."""
        at, pause_s = self._choose.randrange(2), 0.1
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await self._once(method, path, at, body)
                except _LOST:
                    pass
                else:
                    if answer.status_code in expect:
                        return answer
                    if answer.status_code != 503:
                        self._tally.found(f"{method} {path}: {answer.status_code} {answer.content[:200]!r}")
                        return answer
                at += 1
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _AGAIN_MAX_S)

    async def _once(self, method: str, path: str, at: int, body: object = None, **headers: str) -> Answer:
        idle = self._idle[at % len(self._idle)]
        connection = idle.pop() if idle else await connect(self._address(at))
        if not connection.usable:
            connection = await connect(self._address(at))
        try:
            answer = await connection.ask(request(method, path, self._session, body, **headers))
        except BaseException:
            connection.abort()
            raise
        idle.append(connection)
        return answer

    def _address(self, at: int) -> Address:
        return self._addresses[at % len(self._addresses)]

"""What serves the streams that are measured: an ingress process with turns that the bench plays proc for, and peers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import channel
from bench.readers import Counter, Reader, open_reader, post_message, spread_out
from bench.stores import BUNDLE, EPOCH, KEYS, IngressAlone

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.process import Program
from kdcube.local.valkey import STOP_SIGNAL
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.heads import encode_head
from kdcube.protocol.ids import new_id
from kdcube.redis.connection import Connection
from kdcube.redis.eventlog import Appended, EventLogs
from kdcube.redis.queue import Claim, Opened, Queue

USER_STREAMS, TURN_STREAMS = "KDCube, user streams", "KDCube, turn streams"
SSE_STARLETTE, RAW_ASGI, BARE = "sse-starlette", "raw ASGI", "bare protocol"
_IN_FLIGHT = 128
_TS_MS = 1_700_000_000_000
_DELTA = encode_line(
    Kind.DELTA,
    "chat.delta",
    ts_ms=_TS_MS,
    attempt=1,
    delta={"text": "word ", "marker": "answer", "index": 12345, "completed": False},
)
PEER_EVENT = b"{" + b'"x":"' + b"y" * 560 + b'",' + _DELTA.partition(b" {")[2]
"""As long as what a client of ours gets."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One group of streams, and how to give each of them so many events."""

    name: str
    pid: int
    counter: Counter
    publish: Callable[[int], Awaitable[object]]


class RunningTurns:
    """Turns under claims of the bench, whose logs grow together."""

    def __init__(self, logs: EventLogs, claims: Sequence[Claim]) -> None:
        self._logs = logs
        self._claims = claims
        self._tail = 1
        self._seq = 0

    async def publish(self, count: int) -> None:
        """Appends so many events to each log, in one batch."""
        lines = b"\n".join([_DELTA] * count)
        self._seq += 1

        async def append(claim: Claim) -> None:
            appended = await self._logs.append(
                claim.envelope.turn_id,
                claim.claim_id,
                epoch=EPOCH,
                seq=self._seq,
                tail=self._tail,
                count=count,
                lines=lines,
            )
            assert isinstance(appended, Appended), appended

        await spread_out(append, self._claims, _IN_FLIGHT)
        self._tail += count


async def _begin_turns(connection: Connection, size: int) -> RunningTurns:
    """What proc does before it hands the turns that wait to a bundle."""
    queue, claims = Queue(connection, KEYS), list[Claim]()
    while len(claims) < size:
        ids = [new_id() for _ in range(64)]
        claimed = await queue.claim(epoch=EPOCH, worker_id="bench", revision="1", room={BUNDLE: 64}, claim_ids=ids)
        assert isinstance(claimed, list), claimed
        claims += claimed
    line = encode_line(Kind.START, "chat.start", ts_ms=_TS_MS, attempt=1)
    for claim in claims:
        head = encode_head(claim.envelope, "0123456789ab")
        opened = await queue.start(claim.envelope, claim.claim_id, epoch=EPOCH, attempt=1, head=head, line=line)
        assert isinstance(opened, Opened), opened
    return RunningTurns(EventLogs(connection, KEYS), claims)


async def open_user_streams(port: int, size: int) -> tuple[Counter, Sequence[Reader]]:
    """Each of a new anonymous user."""
    counter = Counter()
    return counter, await spread_out(
        lambda number: open_reader(port, f"/sse/stream?stream_id=s{number}", counter), range(size)
    )


def _session_of(reader: Reader) -> str:
    return reader.head.result().partition(b"kdcube_session=")[2].partition(b";")[0].decode()


@asynccontextmanager
async def own_turns(ingress: IngressAlone, connection: Connection, size: int) -> AsyncGenerator[list[Subject]]:
    """As many user streams as turn streams, of different users, each with a running turn."""
    port = ingress.port
    by_user, readers = await open_user_streams(port, size)
    await spread_out(lambda number: post_message(port, number, _session_of(readers[number])), range(size))
    followed = await _begin_turns(connection, size)

    by_turn = Counter()
    accepted = await spread_out(lambda number: post_message(port, number), range(size))
    watched = await _begin_turns(connection, size)
    watchers = await spread_out(lambda turn: _watch(port, turn, by_turn), accepted)
    yield [
        Subject(USER_STREAMS, ingress.pid, by_user, followed.publish),
        Subject(TURN_STREAMS, ingress.pid, by_turn, watched.publish),
    ]
    close_all([*readers, *watchers])


@asynccontextmanager
async def one_turn(ingress: IngressAlone, connection: Connection, size: int) -> AsyncGenerator[list[Subject]]:
    """As many user streams of one user, and as many turn streams of one other user, as ``size``."""
    port = ingress.port
    by_user, by_turn = Counter(), Counter()
    session = (await post_message(port, 0))["session_id"]
    followed = await _begin_turns(connection, 1)
    path = f"/sse/stream?user_session_id={session}&stream_id="
    readers = await spread_out(lambda number: open_reader(port, f"{path}{number}", by_user), range(size))

    turn = await post_message(port, 0)
    watched = await _begin_turns(connection, 1)
    watchers = await spread_out(lambda _: _watch(port, turn, by_turn), range(size))
    yield [
        Subject(USER_STREAMS, ingress.pid, by_user, followed.publish),
        Subject(TURN_STREAMS, ingress.pid, by_turn, watched.publish),
    ]
    close_all([*readers, *watchers])


def close_all(readers: Iterable[Reader]) -> None:
    for reader in readers:
        reader.close()


async def _watch(port: int, turn: dict[str, str], counter: Counter) -> Reader:
    return await open_reader(port, f"/turns/{turn['turn_id']}/stream?user_session_id={turn['session_id']}", counter)


class Peer:
    """A running peer."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.counter = Counter()
        self._port = port

    async def open(self, size: int, channels: int | None = None) -> Sequence[Reader]:
        """Streams of as many channels, or of the first ``channels``, one after the other."""
        numbers = [number % (channels or size) for number in range(size)]
        return await spread_out(lambda number: open_reader(self._port, f"/{number}", self.counter), numbers)


@asynccontextmanager
async def running_peer(name: str, redis_url: str) -> AsyncGenerator[Peer]:
    """A peer in a process of its own."""
    port = free_port()
    argv = (sys.executable, "-m", "bench.peers", name, str(port), redis_url)
    server = process.start(Program(argv, {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])}))
    try:
        while not await _listens(port):
            if server.poll() is not None:
                raise RuntimeError(f"{name} did not start; try {' '.join(argv)}")
            await asyncio.sleep(0.05)
        yield Peer(server.pid, port)
    finally:
        process.stop(server, STOP_SIGNAL, grace_s=10)


@asynccontextmanager
async def peer_subject(
    name: str, redis_url: str, connection: Connection, size: int, channels: int
) -> AsyncGenerator[Subject]:
    """A peer with ``size`` streams of so many channels."""
    async with running_peer(name, redis_url) as peer:
        await peer.open(size, channels)

        async def publish(count: int) -> None:
            lines = b"\n".join([PEER_EVENT] * count)
            await spread_out(
                lambda number: connection.call("PUBLISH", channel(name, number), lines), range(channels), _IN_FLIGHT
            )

        yield Subject(name, peer.pid, peer.counter, publish)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True

"""Many users of several classes who send when they are due, each with a stream; and what became of their turns."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from bench.client import Messages
from bench.readers import Counter, Reader, open_reader
from bench.system import System

from kdcube.capacity.arrivals import Arrival
from kdcube.capacity.service_times import ServiceTimes
from kdcube.local.postgres import running_dsn
from kdcube.protocol.turns import UserType

_ROLES = {UserType.PRIVILEGED: ["kdcube:role:admin"], UserType.PAID: ["kdcube:role:paid"], UserType.REGISTERED: []}
"""Of those who sign in."""
_DELTAS = 10
_CONNECTIONS = 48
_LIMIT_S = 120.0


def tokens_of(names: Sequence[tuple[UserType, str]]) -> dict[str, Any]:
    """What ``kdcube up --auth`` is to know."""
    return {
        f"token-{name}": {"sub": name, "roles": _ROLES[user_type]} for user_type, name in names if user_type in _ROLES
    }


class People:
    """Users with a stream each, and connections by which their messages go."""

    """Made by ``open_people``. ``lengths``: how long the bench bundle is asked to take."""

    def __init__(
        self,
        lengths: ServiceTimes,
        sessions: Mapping[str, str],
        connections: Sequence[Messages],
        streams: Sequence[Reader],
    ) -> None:
        self._lengths = lengths
        self._sessions = sessions
        self._connections = connections
        self._streams = streams
        self._free = asyncio.Queue[Messages]()  # in turn, so that none is idle for so long that it is closed
        for connection in connections:
            self._free.put_nowait(connection)

    async def send(self, name: str, sent: Sequence[Arrival]) -> int:
        """Sends each when it is due; the wall clock (ms) at the beginning. Their lengths are the quantiles of
        ``lengths`` in random order, so that two loads differ in their order and not in what they ask for in all.
        """
        random_ = random.Random(name)  # noqa: S311
        lengths = [self._lengths.percentile_s((number + 0.5) / len(sent)) for number in range(len(sent))]
        random_.shuffle(lengths)
        began, began_ms = time.monotonic(), int(time.time() * 1000)
        tasks: list[asyncio.Task[None]] = []
        for number, (arrival, length_s) in enumerate(zip(sent, lengths, strict=True)):
            if (early := began + arrival.at_s - time.monotonic()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(self._send(f"{name}-{number}", arrival, length_s)))
        await asyncio.gather(*tasks)
        return began_ms

    async def _send(self, name: str, arrival: Arrival, length_s: float) -> None:
        orders = {"deltas": _DELTAS, "pause_ms": length_s * 1000 / (_DELTAS - 2)}
        message = {
            "text": "bench", "turn_id": name, "conversation_id": f"{name.split('-')[0]}-{arrival.conversation}",
            "payload": {"bench": orders},
        }  # fmt: skip
        body = json.dumps({"message": message})
        who = (
            f"User-Session-ID: {self._sessions[arrival.user]}"
            if arrival.user_type not in _ROLES
            else f"Authorization: Bearer token-{arrival.user}"
        )
        connection = await self._free.get()
        status, answer = await connection.ask(
            f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\n{who}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        self._free.put_nowait(connection)
        assert status == 202, (status, answer)

    def close(self) -> None:
        for connection in (*self._connections, *self._streams):
            connection.close()


async def open_people(system: System, names: Sequence[tuple[UserType, str]], lengths: ServiceTimes) -> People:
    """Those of ``tokens_of`` sign in, the others are anonymous."""
    loop = asyncio.get_running_loop()
    addresses, counter = system.ingress, Counter()
    connections = [
        (await loop.create_connection(Messages, *addresses[number % len(addresses)]))[1]
        for number in range(_CONNECTIONS)
    ]
    sessions: dict[str, str] = {}
    streams: list[Reader] = []
    for place, (user_type, name) in enumerate(names):
        token = f"Authorization: Bearer token-{name}\r\n" if user_type in _ROLES else ""
        _, body = await connections[0].ask(f"GET /profile HTTP/1.1\r\nHost: bench\r\n{token}\r\n".encode())
        sessions[name] = json.loads(body)["session_id"]
        query = f"stream_id=s{place}&user_session_id={sessions[name]}"
        if token:
            query += f"&bearer_token=token-{name}"
        _, port = addresses[place % len(addresses)]
        streams.append(await open_reader(port, f"/sse/stream?{query}", counter))
    return People(lengths, sessions, connections, streams)


async def ended_turns(system: System, name: str, count: int) -> list[asyncpg.Record]:
    """The rows of what was sent under ``name``, when all have ended: each once, and well."""
    dsn = running_dsn(system.home / "postgres")
    assert dsn is not None
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                rows = await connection.fetch(
                    "select user_type, accepted_ms, started_ms, ended_ms, state, attempt from turns"
                    " where client_turn_id like $1",
                    f"{name}-%",
                )
                ended = [row for row in rows if row["ended_ms"] is not None]
                if len(ended) == count:
                    assert all(row["state"] == "completed" and row["attempt"] == 1 for row in rows), rows
                    return rows
                await asyncio.sleep(0.2)
    finally:
        await connection.close()

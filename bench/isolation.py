"""What the turns of a quiet bundle notice of a bundle that does harm beside it, in the same proc.

For each way of doing harm a window alone and a window beside it, one after the other in every round.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.alone import run_alone
from bench.client import Address, Kind, Messages, Stream, Tally, User, WrongStream, open_users
from bench.cpu import cores_of_others
from bench.report import Bench, Effort, Section, Spread, Table, digits, quantiles, spread
from bench.system import BUNDLE, System, running_system
from bench.turns import closed_loop

KIND = Kind(20)
USERS = 8
BAD_USERS = 2
QUIET = "bench@1.0.0"
BAD = "bad@1.0.0"
_BAD_FOLDER = Path(__file__).parent / "bad"
LIMITS = {"memory_limit_mb": 512, "process_limit": 128, "temp_limit_mb": 128, "open_files_limit": 1024}
BROKEN = "fails at import"
WAYS = (
    *("segfault", "os._exit", BROKEN, "memory", "memory of a child", "blocks its loop", "holds the interpreter"),
    *("burns one core", "burns in 16 processes", "forks", "daemons", "threads", "prints 1 GB", "steps of 100 KB"),
    *("floods the wire", "fills its folder", "opens files"),
)
_SETTLE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Window:
    """What users of the quiet bundle saw."""

    p50_ms: float
    p99_ms: float
    turns_per_s: float


@dataclass(frozen=True, slots=True)
class Beside:
    """One way of doing harm. Ratios are to the window alone before each."""

    way: str
    p50_ms: Spread
    p99_ms: Spread
    turns_per_s: Spread
    p50_ratio: Spread
    p99_ratio: Spread
    turns_ratio: Spread
    lost: dict[str, int]
    """Hosts of the bad bundle by what ended them, over all rounds."""


@dataclass(frozen=True, slots=True)
class Isolation:
    alone: Beside
    beside: list[Beside]
    rounds: int
    window_s: float
    turns: int
    cores_of_others: float


async def measure(effort: Effort) -> Isolation:
    rounds, seconds = effort.of(3, 1), effort.of(2.0, 0.5)
    pairs: dict[str, list[tuple[Window, Window]]] = {way: [] for way in WAYS}
    lost: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    tally, others = Tally(), list[float]()
    with running_system(bundles=_registry) as system:
        users = await open_users(system.ingress, USERS)
        bad = [await _open_bad_user(system.ingress, number) for number in range(BAD_USERS)]
        await closed_loop(users, KIND, effort.of(3.0, 0.5), tally)  # warm
        for _ in range(rounds):
            for way in random.sample(WAYS, len(WAYS)):
                meter = system.meter()
                before = meter.read()
                alone = await _window(users, seconds, tally)
                others.append(cores_of_others(before, meter.read()))
                lost_before = Counter(await _lost(system))
                async with _Harm(system, bad, way):
                    pairs[way].append((alone, await _window(users, seconds, tally)))
                lost[way] += Counter(await _lost(system)) - lost_before
        for user in (*users, *bad):
            user.close()
    every = [alone for each in pairs.values() for alone, _ in each]
    return Isolation(
        _beside("alone", [(one, one) for one in every], {}),
        [_beside(way, each, lost[way]) for way, each in pairs.items()],
        rounds,
        2 * seconds,
        len(tally.turns),
        spread(others).median,
    )


async def _window(users: Sequence[User], seconds: float, tally: Tally) -> Window:
    """One user with 10 to 20 ms between turns for the latency, then all of them in a closed loop for the rate."""
    first, until = len(tally.turns), time.monotonic() + seconds
    while time.monotonic() < until or len(tally.turns) - first < 2:
        await asyncio.sleep(random.uniform(0.01, 0.02))  # noqa: S311
        await users[0].turn(KIND, tally)
    times = quantiles([turn.whole_s for turn in tally.turns[first:]])
    second, began = len(tally.turns), time.monotonic()
    await closed_loop(users, KIND, seconds, tally)
    return Window(times.p50_ms, times.p99_ms, (len(tally.turns) - second) / (time.monotonic() - began))


class BadUser:
    """Sends what does harm, and again when it has ended."""

    def __init__(self, messages: Messages, stream: Stream, session: str, name: str) -> None:
        self._messages = messages
        self._stream = stream
        self._session = session
        self._name = name
        self._numbers = itertools.count(1)
        self._running: str | None = None

    async def run(self, way: str) -> None:
        while True:
            turn_id = f"{self._name}-{next(self._numbers)}"
            self._stream.expect(keep=False)
            message = {"text": "bad", "turn_id": turn_id, "bundle_id": BAD, "payload": {"bad": way}}
            self._running = turn_id
            status, answer = await self._ask("/sse/chat", {"message": message})
            if status != 202:
                raise WrongStream(f"a message was refused with {status}: {answer[:300]!r}")
            with suppress(WrongStream):  # it does not end as a quiet one does
                await asyncio.shield(self._stream.ended)
            self._running = None

    async def settle(self) -> None:
        """Cancels what runs and waits for its end."""
        if self._running is not None:
            await self._ask("/sse/cancel", {"turn_id": self._running})
            with suppress(WrongStream):
                await self._stream.ended
            self._running = None

    async def _ask(self, path: str, content: Mapping[str, Any]) -> tuple[int, bytes]:
        body = json.dumps(content).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nUser-Session-ID: {self._session}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return await self._messages.ask(head.encode() + body)

    def close(self) -> None:
        self._messages.close()
        self._stream.close()


async def _open_bad_user(addresses: Sequence[Address], number: int) -> BadUser:
    loop = asyncio.get_running_loop()
    host, port = addresses[0]
    _, messages = await loop.create_connection(Messages, host, port)
    _, body = await messages.ask(b"GET /profile HTTP/1.1\r\nHost: bench\r\n\r\n")
    session = json.loads(body)["session_id"]
    transport, stream = await loop.create_connection(Stream, host, port)
    path = f"/sse/stream?stream_id=bad{number}&user_session_id={session}"
    transport.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    await stream.ready.wait()
    return BadUser(messages, stream, session, f"bad{number}")


class _Harm:
    """Does harm as long as it is open; after it the bad bundle is as it was."""

    def __init__(self, system: System, users: Sequence[BadUser], way: str) -> None:
        self._system = system
        self._users = users
        self._way = way
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        if self._way == BROKEN:
            (_copy(self._system.home) / "broken").touch()
        self._tasks = [asyncio.create_task(user.run(self._way)) for user in self._users]

    async def __aexit__(self, *_: object) -> None:
        (_copy(self._system.home) / "broken").unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with asyncio.timeout(_SETTLE_LIMIT_S * 3):
            for user in self._users:
                await user.settle()
            while (await _health(self._system))["unavailable"] is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def _copy(home: Path) -> Path:
    """The bad bundle of this run, which may be changed."""
    return home.parent / "bad"


def _registry(home: Path) -> dict[str, Any]:
    shutil.copytree(_BAD_FOLDER, _copy(home))
    bundles = {QUIET: {"path": str(BUNDLE)}, BAD: {"path": str(_copy(home)), **LIMITS}}
    return {"default_bundle_id": QUIET, "bundles": bundles}


async def _health(system: System) -> dict[str, Any]:
    port = int(system.env["KDCUBE_PORT"]) + 10

    def read() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return json.load(answer)

    facts = await asyncio.to_thread(read)
    return next(bundle for bundle in facts["bundles"] if bundle["id"] == BAD)


async def _lost(system: System) -> dict[str, int]:
    return (await _health(system))["hosts_lost"]


def _beside(way: str, pairs: Sequence[tuple[Window, Window]], lost: Mapping[str, int]) -> Beside:
    return Beside(
        way,
        spread(with_it.p50_ms for _, with_it in pairs),
        spread(with_it.p99_ms for _, with_it in pairs),
        spread(with_it.turns_per_s for _, with_it in pairs),
        spread(with_it.p50_ms / alone.p50_ms for alone, with_it in pairs),
        spread(with_it.p99_ms / alone.p99_ms for alone, with_it in pairs),
        spread(with_it.turns_per_s / alone.turns_per_s for alone, with_it in pairs),
        dict(lost),
    )


def section(result: Isolation) -> Section:
    rows = [
        [
            one.way,
            *map(str, (one.p50_ms, one.p99_ms, one.turns_per_s)),
            *(digits(ratio.median) for ratio in (one.p50_ratio, one.p99_ratio, one.turns_ratio)),
            ", ".join(f"{reason} {count}" for reason, count in sorted(one.lost.items())),
        ]
        for one in result.beside
    ]
    alone = result.alone
    return Section(
        title="A quiet bundle beside one that does harm",
        how=(
            f"Both in one proc, as `kdcube up` starts it. The quiet one's turns have 20 deltas: one user "
            f"with 10 to 20 ms between turns for p50 and p99 (milliseconds from the POST to the end), then {USERS} in "
            f"a closed loop for the rate. {BAD_USERS} users send the other bundle messages that do harm, again when "
            f"one has ended. {result.rounds} rounds, in each a window of {result.window_s:g} s alone and one beside "
            f"each way, in random order; ratios are to the window alone just before, their median. {result.turns:,} "
            f"quiet turns, each seen to start and end once. Besides, {digits(result.cores_of_others)} cores were "
            f"busy with something else. Limits of the bad bundle: "
            f"{', '.join(f'{name} {value}' for name, value in LIMITS.items())}. *Hosts lost*: what ended its processes."
        ),
        tables=(
            Table(
                ("beside", "p50 ms", "p99 ms", "turns/s", "p50 x", "p99 x", "turns/s x", "hosts lost"),
                [["nothing", str(alone.p50_ms), str(alone.p99_ms), str(alone.turns_per_s), "", "", "", ""], *rows],
            ),
        ),
    )


BENCH = Bench("isolation", Isolation, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

"""Turns per second through the whole system by HTTP, and where the CPU time goes.

    python -m bench.load [URL ...] --users 64 --deltas 20 --seconds 10

Without a URL it starts a system of its own and stops it.

Each user has one user stream and sends the next message when the turn before has ended (a closed loop). CPU time is
read from the system's processes (``kdcube status --json``), so run it in the folder of the system's home.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop


@dataclass
class Tally:
    """What the users saw."""

    turns: int = 0
    events: int = 0
    refused: int = 0
    accepted_s: list[float] = field(default_factory=list[float])
    first_event_s: list[float] = field(default_factory=list[float])
    whole_s: list[float] = field(default_factory=list[float])
    counting: bool = False


class User:
    """One anonymous user: a stream, a connection for messages, and a closed loop."""

    def __init__(self, urls: list[str], number: int, deltas: int, tally: Tally) -> None:
        self._send_to = urlsplit(urls[number % len(urls)])
        self._read_from = urlsplit(urls[(number + 1) % len(urls)])
        self._number = number
        self._tally = tally
        self._payload = {"echo": {"deltas": deltas}}
        self._first: float | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        session = (await self._call("GET", "/profile"))["session_id"]
        reader, writer = await asyncio.open_connection(self._read_from.hostname, self._read_from.port)
        path = f"/sse/stream?stream_id=s{self._number}&user_session_id={session}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        reading = asyncio.create_task(self._read(reader))
        sender = await asyncio.open_connection(self._send_to.hostname, self._send_to.port)
        try:
            turn = 0
            while True:
                turn += 1
                await self._turn(sender, session, turn)
        finally:
            reading.cancel()
            writer.close()
            sender[1].close()

    async def _turn(self, sender: tuple[asyncio.StreamReader, asyncio.StreamWriter], session: str, turn: int) -> None:
        message = {"text": "bench", "turn_id": f"t{self._number}-{turn}", "payload": self._payload}
        body = json.dumps({"message": message}).encode()
        head = (
            f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\nUser-Session-ID: {session}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._first = None
        self._ended.clear()
        began = time.perf_counter()
        sender[1].write(head.encode() + body)
        status, _ = await _response(sender[0])
        accepted = time.perf_counter()
        if status != 202:
            self._tally.refused += 1
            await asyncio.sleep(0.2)
            return
        await self._ended.wait()
        if self._tally.counting:
            tally = self._tally
            tally.turns += 1
            tally.accepted_s.append(accepted - began)
            tally.first_event_s.append((self._first or time.perf_counter()) - began)
            tally.whole_s.append(time.perf_counter() - began)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(1 << 16):
            rest += data
            *frames, rest = rest.split(b"\n\n")
            for frame in frames:
                if b"event: chat_" not in frame:
                    continue
                self._tally.events += self._tally.counting
                if self._first is None:
                    self._first = time.perf_counter()
                if b"event: chat_complete" in frame or b"event: chat_error" in frame:
                    self._ended.set()

    async def _call(self, method: str, path: str) -> dict[str, str]:
        reader, writer = await asyncio.open_connection(self._send_to.hostname, self._send_to.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        _, body = await _response(reader)
        writer.close()
        return json.loads(body)


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), await reader.readexactly(length)


KDCUBE = str(Path(sys.executable).parent / "kdcube")
GATEWAY = {
    "tenant": "local",
    "project": "main",
    "rate_limits": {"anonymous": {"hourly": -1, "burst": -1, "burst_window": 60}},
    "backpressure": {"queue_depth_multiplier": 1000},
}


@contextmanager
def own_system() -> Iterator[list[str]]:
    """A system in a temporary folder, on ports of its own; gives the addresses of its ingress processes."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ |= {"KDCUBE_PORT": "9410", "GATEWAY_CONFIG_JSON": json.dumps(GATEWAY)}
        began = time.perf_counter()
        subprocess.run([KDCUBE, "up", "--detach", "--slots", "64"], check=True, stdout=subprocess.DEVNULL)
        print(f"kdcube up in a new home: {time.perf_counter() - began:.1f} s")
        try:
            yield ["http://127.0.0.1:9410", "http://127.0.0.1:9411"]
        finally:
            subprocess.run([KDCUBE, "down"], check=True, stdout=subprocess.DEVNULL)


def cpu_times() -> dict[str, float]:
    """CPU seconds so far, by service; the hosts of bundles and PostgreSQL's backends count with their parent."""
    services = json.loads(subprocess.check_output([KDCUBE, "status", "--json"]))["services"]
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def below(pid: int) -> float:
        return sum(used.get(child, 0) + below(child) for child in children.get(pid, []))

    times: dict[str, float] = {}
    for service in services:
        name, pid = service["name"], service["pid"]
        times[name] = times.get(name, 0) + used.get(pid, 0)
        times[f"{name} children"] = times.get(f"{name} children", 0) + below(pid)
    times["load"] = time.process_time()
    return times


async def measure(urls: list[str], users: int, deltas: int, seconds: float) -> None:
    tally = Tally()
    tasks = [asyncio.create_task(User(urls, number, deltas, tally).run()) for number in range(users)]
    await asyncio.sleep(2)
    before, began = cpu_times(), time.perf_counter()
    tally.counting = True
    await asyncio.sleep(seconds)
    tally.counting = False
    elapsed, after = time.perf_counter() - began, cpu_times()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            print(f"a user stopped: {result!r}")
            break
    if not tally.turns:
        print(f"no turn ended; refused {tally.refused}")
        return
    print(
        f"{tally.turns / elapsed:.0f} turns/s of {deltas} deltas, {tally.events / elapsed:.0f} events/s, "
        f"refused {tally.refused}"
    )
    for name, values in (
        ("accepted", tally.accepted_s),
        ("first event", tally.first_event_s),
        ("whole turn", tally.whole_s),
    ):
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:12} p50 {cuts[49] * 1000:7.1f} ms  p99 {cuts[98] * 1000:7.1f} ms")
    for name in after:
        spent = after[name] - before.get(name, 0)
        if spent > 0.005:
            print(f"{name:20} {spent / tally.turns * 1e6:8.0f} us a turn  {spent / elapsed * 100:5.0f} % of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--deltas", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    with nullcontext(arguments.urls) if arguments.urls else own_system() as urls:
        uvloop.run(measure(urls, arguments.users, arguments.deltas, arguments.seconds))


if __name__ == "__main__":
    main()

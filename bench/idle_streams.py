"""Memory of a stream on which nothing happens: 8,000 of them in one process, in real sockets, beside the peers."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from bench.alone import run_alone
from bench.report import Bench, Chart, Effort, Section, Table, Target, digits
from bench.stores import running_ingress
from bench.subjects import RAW_ASGI, SSE_STARLETTE, USER_STREAMS, close_all, open_user_streams, running_peer

from kdcube.redis.connection import open_connection

_SETTLE_S = 2.0
_SPARE_DESCRIPTORS = 200


class TooFewDescriptors(RuntimeError):
    """The limit of open files is too low for so many streams."""


@dataclass(frozen=True, slots=True)
class IdleStreams:
    streams: int
    stream_kb: dict[str, float]
    """Growth of the process's own memory for each stream (USS, 1 KB = 1,024 bytes), by server."""
    kernel_kb: float
    """Growth of the kernel's slabs for each of our streams: both ends of the connection."""


async def measure(effort: Effort) -> IdleStreams:
    size = effort.of(8000, 200)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < size + _SPARE_DESCRIPTORS:
        raise TooFewDescriptors(f"{size} streams need {size + _SPARE_DESCRIPTORS} open files: raise `ulimit -n`")
    stream_kb: dict[str, float] = {}
    settle_s = effort.of(_SETTLE_S, 0.2)
    async with running_ingress() as ingress, open_connection(ingress.redis_url, name="bench"):
        _, some = await open_user_streams(ingress.port, 50)  # what is made once and stays
        await asyncio.sleep(settle_s)
        before, kernel_before = _own_bytes(ingress.pid), _slab_bytes()
        _, readers = await open_user_streams(ingress.port, size)
        await asyncio.sleep(settle_s)
        stream_kb[USER_STREAMS] = (_own_bytes(ingress.pid) - before) / size / 1024
        kernel_kb = (_slab_bytes() - kernel_before) / size / 1024
        close_all([*some, *readers])
        for name in (SSE_STARLETTE, RAW_ASGI):
            async with AsyncExitStack() as stack:
                peer = await stack.enter_async_context(running_peer(name, ingress.redis_url))
                some = await peer.open(50)
                await asyncio.sleep(settle_s)
                before = _own_bytes(peer.pid)
                readers = await peer.open(size)
                await asyncio.sleep(settle_s)
                stream_kb[name] = (_own_bytes(peer.pid) - before) / size / 1024
                close_all([*some, *readers])
    return IdleStreams(size, stream_kb, kernel_kb)


def _own_bytes(pid: int) -> int:
    return psutil.Process(pid).memory_full_info().uss


def _slab_bytes() -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["Slab"].split()[0]) * 1024


def section(result: IdleStreams) -> Section:
    return Section(
        title="Memory of an idle stream",
        how=(
            f"{result.streams:,} streams in one process, each of another user, opened one after the other; the "
            f"growth of the "
            "process's own memory (USS), two seconds after the last. Ours are user streams, subscribed to their user's "
            f"feed in Valkey. The kernel takes {digits(result.kernel_kb)} KB more for both ends of a connection here."
        ),
        tables=(Table(("", "KB a stream"), [[name, digits(kb)] for name, kb in result.stream_kb.items()]),),
        charts=(
            Chart(
                "idle-streams", "KB of an idle stream", list(result.stream_kb), {"KB": list(result.stream_kb.values())}
            ),
        ),
        targets=(Target(f"memory of an idle stream at {result.streams:,}", 15, result.stream_kb[USER_STREAMS], "KB"),),
    )


BENCH = Bench("idle_streams", IdleStreams, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)

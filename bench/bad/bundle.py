"""A bundle that does harm, one way for each message: ``{"bad": WAY}``. What it takes is bounded by its limits here."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from kdcube.sdk import Bundle, Turn
from kdcube.sdk.wire import Delta, encode_frames

if (Path(__file__).parent / "broken").exists():
    raise RuntimeError("it fails at import")

bundle = Bundle("bad@1.0.0")
_MB = 1024 * 1024
held: list[int] = []


async def segfault(turn: Turn) -> None:
    ctypes.string_at(0)


async def leave(turn: Turn) -> None:
    os._exit(1)


async def leak(turn: Turn) -> None:
    hoard: list[bytes] = []
    while True:
        hoard.append(os.urandom(1024) * 1024)
        await asyncio.sleep(0)


async def leak_in_a_child(turn: Turn) -> None:
    subprocess.Popen([sys.executable, "-c", "h = []\nwhile True: h.append(b'x' * 2**20)"])
    await turn.cancelled


async def block(turn: Turn) -> None:
    time.sleep(3600)


async def hold_the_interpreter(turn: Turn) -> None:
    ctypes.PyDLL(None).sleep(3600)


async def burn(turn: Turn) -> None:
    while True:
        pass


async def burn_in_processes(turn: Turn) -> None:
    for _ in range(16):
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
    await turn.cancelled


async def fork(turn: Turn) -> None:
    for _ in range(11):  # 2,048 of them, if nobody stops it
        if os.fork() == 0:
            os.setsid()
    time.sleep(3600)


async def daemons(turn: Turn) -> None:
    while True:
        subprocess.run(["setsid", "--fork", "sleep", "3600"], check=False)
        await asyncio.sleep(0)


async def threads(turn: Turn) -> None:
    while True:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


async def print_a_gigabyte(turn: Turn) -> None:
    line = "x" * 1023
    for _ in range(_MB):
        print(line)
        await asyncio.sleep(0)


async def steps(turn: Turn) -> None:
    while True:
        await turn.step("again", data={"more": "x" * 100_000})
        await asyncio.sleep(0)


async def flood_the_wire(turn: Turn) -> None:
    wire = socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index("--wire") + 1])))
    wire.setblocking(True)
    frames = b"".join(encode_frames([Delta(0, "x")] * 1024))

    def send() -> None:
        while True:
            wire.sendall(frames)

    await asyncio.to_thread(send)


async def fill_the_folder(turn: Turn) -> None:
    number = 0
    while True:
        number += 1
        (Path.home() / str(number)).write_bytes(bytes(_MB))
        await asyncio.sleep(0)


async def open_files(turn: Turn) -> None:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))


WAYS: dict[str, Callable[[Turn], Awaitable[None]]] = {
    "segfault": segfault,
    "os._exit": leave,
    "fails at import": leave,
    "memory": leak,
    "memory of a child": leak_in_a_child,
    "blocks its loop": block,
    "holds the interpreter": hold_the_interpreter,
    "burns one core": burn,
    "burns in 16 processes": burn_in_processes,
    "forks": fork,
    "daemons": daemons,
    "threads": threads,
    "prints 1 GB": print_a_gigabyte,
    "steps of 100 KB": steps,
    "floods the wire": flood_the_wire,
    "fills its folder": fill_the_folder,
    "opens files": open_files,
}


@bundle.on_message
async def harm(turn: Turn) -> None:
    await WAYS[turn.payload["bad"]](turn)

"""A port of this machine's loopback, on the loopback of a container: for a provider that is believed at http on this
machine alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_NETWORK = 0x40000000
_HOST = "127.0.0.1"


@contextmanager
def passed_on(process: int, port: int) -> Iterator[None]:
    """While it holds, whoever connects to 127.0.0.1:``port`` in the network of ``process`` comes out at it here."""
    listener = _listener(process, port)
    ways: list[threading.Thread] = []
    ends: list[socket.socket] = [listener]
    accepting = threading.Thread(target=_accept, args=(listener, port, ways, ends))
    accepting.start()
    try:
        yield
    finally:
        _shut(listener)
        accepting.join()
        for end in ends:
            _shut(end)
        for way in ways:
            way.join()
        for end in ends:
            end.close()


def _listener(process: int, port: int) -> socket.socket:
    """A socket stays in the network in which it was made; the thread that went there ends."""
    made: list[socket.socket | BaseException] = []

    def make() -> None:
        try:
            with open(f"/proc/{process}/ns/net") as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(socket.create_server((_HOST, port)))
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def _accept(listener: socket.socket, port: int, ways: list[threading.Thread], ends: list[socket.socket]) -> None:
    while True:
        try:
            inside, _ = listener.accept()
        except OSError:
            return
        ends.append(inside)
        try:
            outside = socket.create_connection((_HOST, port))
        except OSError:
            _shut(inside)
            continue
        ends.append(outside)
        for source, sink in ((inside, outside), (outside, inside)):
            ways.append(threading.Thread(target=_copy, args=(source, sink)))
            ways[-1].start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)

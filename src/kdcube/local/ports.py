"""Ports on the loopback interface."""

from __future__ import annotations

import random
import socket

# Below the kernel's range for outgoing connections: there, a client that retries a port whose server has just died
# can be given that very port as its own and connect to itself, which also keeps the server from coming back.
_FIRST, _LAST = 10_000, 32_000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*offsets: int) -> int:
    """A random port that is free now, together with the ports at ``offsets`` above it."""
    while True:
        port = random.randrange(_FIRST, _LAST)  # noqa: S311 - spreads parallel runs, guards nothing
        if all(is_free(port + offset) for offset in (0, *offsets)):
            return port

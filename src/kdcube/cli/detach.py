"""A process that goes on in the background, and says when it is ready."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kdcube.protocol.errors import KDCubeError

_READY = b"+"


class NeverReady(KDCubeError):
    """The background process ended before it was ready."""


def detach(work: Callable[[Callable[[], None]], None], log: Path) -> None:
    """Run ``work`` in the background with its output in ``log``; return when it has called what it is given.

    The caller must have started no thread. Raises NeverReady with the message of the KDCubeError that ended it.
    """
    ear, mouth = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ear)
        _in_background(work, log, mouth)
    os.close(mouth)
    try:
        with os.fdopen(ear, "rb") as said:
            words = said.read()
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        raise
    if words != _READY:
        raise NeverReady(words.decode(errors="replace") or f"the supervisor ended before all was ready; see {log}")


def _in_background(work: Callable[[Callable[[], None]], None], log: Path, mouth: int) -> NoReturn:
    os.setsid()
    sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((nothing, 0), (sink, 1), (sink, 2)):
        os.dup2(fd, standard)

    told = False

    def tell(words: bytes) -> None:
        nonlocal told
        if not told:
            os.write(mouth, words)
            os.close(mouth)
        told = True

    try:
        work(lambda: tell(_READY))
    except KDCubeError as error:
        print(f"kdcube: {error}")
        tell(str(error).encode())
    except BaseException:  # noqa: BLE001 - reported; it must never go on as a second copy of the foreground
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(0)

"""``breakpoint()`` in a bundle host that is debugged: pdb on a Unix socket.

A host has no terminal, so ``breakpoint()`` prints a command, waits until it is run, and talks to whoever ran it:

    python -m kdcube.sdk.breakpoints /path/of/the/socket

The socket is in a folder that only the user that runs proc may enter.
"""

from __future__ import annotations

import os
import pdb
import selectors
import socket
import sys
import tempfile
from contextlib import suppress

_ENOUGH_BYTES = 65_536


class _Debugger(pdb.Pdb):
    """Lets go of whoever debugs when the program goes on by itself."""

    def __init__(self, peer: socket.socket) -> None:
        # Two files: one for both directions would lose what it has read ahead when it writes.
        super().__init__(stdin=peer.makefile("r"), stdout=peer.makefile("w"), nosigint=True)
        self.use_rawinput = False
        self._peer = peer

    def set_continue(self) -> None:
        super().set_continue()
        if not self.breaks:
            self._leave()

    def set_quit(self) -> None:
        super().set_quit()
        self._leave()

    def _leave(self) -> None:
        with suppress(OSError):  # who debugged has left before
            self.stdout.flush()
            self._peer.shutdown(socket.SHUT_RDWR)


def on_breakpoint(*_: object, **__: object) -> None:
    """For ``sys.breakpointhook``: waits until somebody comes, and stops in the caller. All that needs this thread, such
    as the other turns of the process, stands still meanwhile.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    with _private_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = f"{folder}/socket"
        listener.bind(place)
        listener.listen(1)
        where = f"{frame.f_code.co_filename}, line {frame.f_lineno}"
        command = f"{sys.executable} -m kdcube.sdk.breakpoints {place}"
        print(f"breakpoint at {where}; to get there: {command}", file=sys.stderr, flush=True)
        peer, _ = listener.accept()
    _Debugger(peer).set_trace(frame)


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Not in the host's home, as the path of a socket must be short."""
    return tempfile.TemporaryDirectory(prefix="kdcube-pdb-", dir="/tmp")


def main() -> int:
    """Connects this terminal to a breakpoint, until the program goes on or Ctrl-D."""
    with socket.socket(socket.AF_UNIX) as peer, selectors.DefaultSelector() as ready:
        peer.connect(sys.argv[1])
        ready.register(peer, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                data = os.read(key.fd, _ENOUGH_BYTES)
                if key.fd == peer.fileno():
                    if not data:
                        return 0
                    os.write(sys.stdout.fileno(), data)
                elif data:
                    peer.sendall(data)
                else:
                    ready.unregister(sys.stdin)
                    peer.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    sys.exit(main())

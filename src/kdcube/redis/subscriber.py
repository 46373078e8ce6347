"""Channels of Valkey, heard over one socket that comes back by itself.

A message may be lost while the socket is away, so a channel is a hint about a log and never the log itself: each time
the server confirms a subscription, its listeners are told to read from their cursors again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.redis.connection import Connection, running
from kdcube.redis.endpoint import Endpoint, parse_endpoint

Listener: TypeAlias = Callable[[bytes | None], None]
"""Called with the payload of each message, and with None for "you are subscribed now: read from your cursor again".

None comes first, and again after each loss of the socket. Runs on the event loop; must return quickly.
"""

_CHANNELS_PER_COMMAND = 500

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class _Channel:
    """Who listens: ``joining`` have not had their None yet, ``ready`` have. (Dicts for their order.)"""

    __slots__ = ("joining", "ready")

    def __init__(self) -> None:
        self.joining: dict[Listener, None] = {}
        self.ready: dict[Listener, None] = {}


class Subscriber:
    """Listeners by channel. Made by ``open_subscriber``."""

    def __init__(self, endpoint: Endpoint, *, name: str, deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels: dict[bytes, _Channel] = {}
        self._unconfirmed: Counter[bytes] = Counter()
        """SUBSCRIBEs under way. A channel left and joined again quickly has several, of which the last counts."""
        self.connection = Connection(
            endpoint, name=name, deadline_s=deadline_s, max_in_flight=16, on_push=self._on_push
        )
        self.connection.on_connect.append(self._subscribe_all)

    def subscribe(self, channel: str, listener: Listener) -> None:
        """Adds ``listener``; adding it twice to a channel is adding it once. It is not called before this returns."""
        key = channel.encode()
        entry = self._channels.get(key)
        if entry is None:
            entry = self._channels[key] = _Channel()
            self._send_subscribe([key])
        elif listener in entry.ready:
            return
        elif entry.ready:  # confirmed before this listener came
            self._loop.call_soon(self._welcome, key, entry)
        entry.joining[listener] = None

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Removes ``listener``, which is not called any more. Unknown ones are ignored."""
        key = channel.encode()
        entry = self._channels.get(key)
        if entry is None:
            return
        entry.joining.pop(listener, None)
        entry.ready.pop(listener, None)
        if not entry.joining and not entry.ready:
            del self._channels[key]
            self.connection.send("UNSUBSCRIBE", key)

    def _send_subscribe(self, keys: Iterable[bytes]) -> None:
        if self.connection.connected:  # else all channels are asked for after the reconnect
            self._unconfirmed.update(keys)
            self.connection.send("SUBSCRIBE", *keys)

    def _subscribe_all(self) -> None:
        self._unconfirmed.clear()
        for entry in self._channels.values():
            entry.joining = {**entry.ready, **entry.joining}
            entry.ready = {}
        keys = list(self._channels)
        for start in range(0, len(keys), _CHANNELS_PER_COMMAND):
            self._send_subscribe(keys[start : start + _CHANNELS_PER_COMMAND])

    def _on_push(self, push: list[Any]) -> None:
        kind: bytes = push[0]
        key: bytes = push[1]
        if kind == b"message":
            entry = self._channels.get(key)
            if entry is not None:
                payload: bytes = push[2]
                for listener in tuple(entry.ready):
                    if listener in entry.ready:  # one before it may have removed it
                        self._tell(listener, payload)
        elif kind == b"subscribe":
            self._unconfirmed[key] -= 1
            if self._unconfirmed[key] <= 0:
                del self._unconfirmed[key]
                entry = self._channels.get(key)
                if entry is not None:
                    self._welcome(key, entry)

    def _welcome(self, key: bytes, entry: _Channel) -> None:
        """Tells those who joined that they are subscribed, unless that has ceased to be so."""
        if self._channels.get(key) is not entry or key in self._unconfirmed or not self.connection.connected:
            return
        joined, entry.joining = entry.joining, {}
        entry.ready.update(joined)
        for listener in joined:
            if listener in entry.ready:
                self._tell(listener, None)

    def _tell(self, listener: Listener, payload: bytes | None) -> None:
        try:
            listener(payload)
        except Exception:
            logger.exception("valkey.listener_failed", listener=repr(listener))


@asynccontextmanager
async def open_subscriber(url: str, *, name: str, deadline_s: float = 5.0) -> AsyncGenerator[Subscriber]:
    """A Subscriber on a socket of its own, shown as ``name`` in CLIENT LIST.

    Raises StoreUnavailable when the first connect fails, ConfigurationError when ``url`` is no Valkey URL.
    """
    subscriber = Subscriber(parse_endpoint(url), name=name, deadline_s=deadline_s)
    async with running(subscriber.connection):
        yield subscriber

"""Connections whose requests are bounded before anybody looks at them: the head in size and time, what stands between
and behind the chunks of a body, and what still comes of one that was answered before its end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES = 64 * 1024
"""Of the target and all header fields together: tokens in cookies are large."""
HEAD_MAX_FIELDS = 128
HEAD_S = 20.0
"""From a connection, or the first byte of its next request, to the end of the head."""

LINGER_S = 5.0
"""A body that was answered before its end is received for so long, and thrown away: a connection that is closed while
data comes takes the answer along."""
LINGER_MAX_BYTES = 32 * 1024 * 1024

_TOO_LARGE = (431, b"Request Header Fields Too Large")
_TOO_SLOW = (408, b"Request Timeout")
_BAD = (400, b"Bad Request")


class _HeadTooLarge(Exception):
    """Ends the parsing."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's, for which a head may be of any size and take for ever."""

    head_s = HEAD_S
    linger_s = LINGER_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        """Received so far of a head that is not complete."""
        self._field_bytes = 0
        """In the fields that are complete."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal = _BAD
        self._linger_timer: asyncio.TimerHandle | None = None
        self._lingering_bytes = 0
        self._in_body = False
        """Behind a head, and the message is not complete."""
        self._has_body = False
        self._bodiless_bytes = 0
        """Received in a row behind a head without any of the body: trailers, and what may stand between chunks."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unwatch()
        self._unlinger()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        if self._linger_timer is not None:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > LINGER_MAX_BYTES:
                self.transport.close()
                return
        self._has_body = False
        super().data_received(data)
        bodiless = self._in_body and not self._has_body
        self._bodiless_bytes = self._bodiless_bytes + len(data) if bodiless else 0
        if self._bodiless_bytes > HEAD_MAX_BYTES:
            self._end_body()
        if self._in_head and self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
            self._refusal = _TOO_LARGE  # a field that does not end is not told of by the parser
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._field_bytes = 0
        if self._head_timer is None:
            self._watch()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._grown(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            not self._in_head
        ):  # a trailer, which no proxy has looked at: it must not pass for a header (RFC 9110, 6.5.1)
            return
        super().on_header(name, value)
        self._grown(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self.unwatch()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        self._unlinger()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._lingering_bytes = 0
            self._linger_timer = self.loop.call_later(self.linger_s, self.transport.close)

    def _end_body(self) -> None:
        """The parser keeps what comes, and nobody bounds it."""
        if self.transport.is_closing():
            return
        if self.cycle.response_started:
            self.transport.close()
        else:
            self._refusal = _TOO_LARGE
            self.send_400_response("")

    def _unlinger(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _grown(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > HEAD_MAX_BYTES or len(self.headers) > HEAD_MAX_FIELDS:
            self._refusal = _TOO_LARGE
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that it cannot parse. Without a body: nothing of ours has seen it."""
        status, reason = self._refusal
        self.unwatch()
        self.transport.write(b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (status, reason))
        self.transport.close()

    def unwatch(self) -> None:
        """The head is there, or is not waited for any more."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:  # it is us who do not read on, until the request before is answered
            self._watch()
        elif self._in_head and not self.transport.is_closing():
            self._refusal = _TOO_SLOW
            self.send_400_response("")

"""Connections as ingress serves them: uvicorn's, which can be handed over to a stream."""

from __future__ import annotations

from typing import Any, cast

from kdcube.gateway.connections import BoundedHttp
from kdcube.ingress.streams.outlets import HAND_OVER, ConnectionOutlet


class HandingOver(BoundedHttp):
    """Serves HTTP until a response takes the connection away, as uvicorn itself does for a WebSocket."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = cast("Any", {HAND_OVER: self.hand_over})

    def hand_over(self, heir: ConnectionOutlet) -> bool:
        """Gives ``heir`` the connection, in the midst of a chunked response that says ``connection: close``.

        uvicorn takes the client for gone then: the request ends without a word, and everything that belonged to it
        goes. False when the client has really left.
        """
        transport, cycle = self.transport, self.cycle
        if cycle.disconnected or transport.is_closing():
            return False
        assert cycle.response_started and cycle.chunked_encoding and not cycle.keep_alive
        cycle.disconnected = True
        cycle.message_event.set()
        self.flow.resume_reading()  # else nobody would hear that the client leaves
        self._unset_keepalive_if_required()
        self.unwatch()
        self.connections.discard(self)
        heir.paused = self.flow.write_paused
        heir.connection_made(transport)
        transport.set_protocol(heir)
        self._forget()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _forget(self) -> None:
        """Leaves no circles for the garbage collector."""
        self.parser = self.scope = self.headers = self.cycle = cast("Any", None)

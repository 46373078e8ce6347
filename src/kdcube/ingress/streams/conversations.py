"""What a feed's events mean for conversations, as the client protocol shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kdcube.gateway.caller import Caller
from kdcube.ingress.streams.projection import sse
from kdcube.ingress.streams.settings import Clock
from kdcube.redis.keys import Keys

_TURN_STATES = {"turn.accepted": "queued", "turn.started": "running", "turn.withdrawn": "withdrawn"}


class FeedEvents:
    """Turns feed events into SSE for one stream. Remembers which turn runs in which conversation, as far as it saw."""

    __slots__ = (
        "_caller", "_clock", "_keys", "_queued", "_running",
    )  # fmt: skip

    def __init__(self, caller: Caller, keys: Keys, clock: Clock) -> None:
        self._caller = caller
        self._keys = keys
        self._clock = clock
        self._running: dict[str, str] = {}
        self._queued: dict[str, dict[str, None]] = {}

    def render(self, event: dict[str, Any], id_: bytes) -> bytes:
        """``conv_status`` for what happens to turns or was asked, ``chat_service`` for everything else."""
        type_ = str(event["type"])
        if type_ in _TURN_STATES or type_ == "turn.ended":
            data = self._status(type_, event)
            return sse.event("conv_status", self.envelope("conv.status", event, data), id_=id_)
        data = {name: value for name, value in event.items() if name != "type"}
        if type_ == "conversation.status":  # somebody asked
            return sse.event("conv_status", self.envelope("conv.status", event, data), id_=id_)
        if type_ == "steer.receipt":
            self._leave(event)
            data["id"] = event["turn_id"]
        return sse.event("chat_service", self.envelope(type_, event, data), id_=id_)

    def too_many(self, turn_id: str) -> bytes:
        """A live turn that this stream does not show."""
        data = {"task_id": turn_id, "stream": f"/turns/{turn_id}/stream"}
        return sse.event("chat_service", self.envelope("stream.turn_elsewhere", {"turn_id": turn_id}, data))

    def envelope(self, type_: str, event: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        caller, now_ms = self._caller, self._clock.now_ms()
        return {
            "type": type_,
            "timestamp": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "ts": now_ms,
            "service": {
                "tenant": self._keys.tenant,
                "project": self._keys.project,
                "user": caller.user_id,
                "user_type": caller.user_type,
            },
            "conversation": {
                "session_id": caller.session_id,
                "conversation_id": event.get("conversation_id"),
                "turn_id": event.get("client_turn_id"),
                "task_id": event.get("turn_id"),
            },
            "data": data,
        }

    def _status(self, type_: str, event: dict[str, Any]) -> dict[str, Any]:
        conversation, turn = event["conversation_id"], event["client_turn_id"]
        queued = self._queued.setdefault(conversation, {})
        if type_ == "turn.accepted":
            queued[turn] = None
        elif type_ == "turn.started":
            queued.pop(turn, None)
            self._running[conversation] = turn
        else:
            self._leave(event)
        running = self._running.get(conversation)
        waiting = self._queued.get(conversation)
        status: dict[str, Any] = {
            "conversation_id": conversation,
            "state": "in_progress" if running else "queued" if waiting else "idle",
            "current_turn_id": running or turn,
            "turn_id": turn,
            "task_id": event["turn_id"],
            "turn_state": event.get("state") or _TURN_STATES.get(type_),
        }
        if type_ == "turn.ended":
            status["completion"] = {"turn_id": turn, "state": event.get("state")}
        return status

    def _leave(self, event: dict[str, Any]) -> None:
        conversation, turn = event.get("conversation_id", ""), event.get("client_turn_id", "")
        if event["type"] == "steer.receipt" and event.get("state") not in ("applied", "cancelled"):
            return
        queued = self._queued.get(conversation)
        if queued is not None:
            queued.pop(turn, None)
            if not queued:
                del self._queued[conversation]
        if self._running.get(conversation) == turn:
            del self._running[conversation]

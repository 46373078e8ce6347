"""``/admin/turns/{id}``: what became of a turn, without what was said in it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.errors import NotFound
from kdcube.gateway.identity.callers import Callers
from kdcube.ingress.requests import path_id
from kdcube.postgres.audit import Audit
from kdcube.postgres.records import StoredTurn
from kdcube.postgres.turns import Turns

_SHOWN = (
    "turn_id", "client_turn_id", "conversation_id", "user_id", "user_type", "request_id", "bundle_id",
    "bundle_version", "content_hash", "state", "attempt", "claim_id", "worker_id", "admitted_order", "accepted_ms",
    "queued_ms", "started_ms", "ended_ms", "parent_turn_id", "steer_of", "cancel_requested", "feedback_reaction",
)  # fmt: skip
"""What is no content, and proves nothing to whoever knows it: no session, no text, no state of a bundle."""


class TurnRoutes:
    """For administrators, of any user's turn. Each look is in the audit log, before it is answered."""

    def __init__(self, callers: Callers, turns: Turns, audit: Audit) -> None:
        self._callers = callers
        self._turns = turns
        self._audit = audit

    async def show(self, request: Request) -> Response:
        caller = await self._callers.administrator(request)
        turn_id = path_id(request, "turn_id")
        turn = await self._turns.get(turn_id)
        await self._audit.record(
            self._callers.actor(request, caller),
            "turn.read",
            turn_id,
            {"user_id": turn.user_id} if turn else {},
            outcome="done" if turn else "refused",
        )
        if turn is None:
            raise NotFound("There is no turn with this internal id.", error="turn_not_found")
        return json_response(_view(turn))


def _view(turn: StoredTurn) -> dict[str, Any]:
    error = turn.error or {}
    return {
        **{name: getattr(turn, name) for name in _SHOWN},
        "error_code": error.get("code"),
        "sizes": {
            "message_chars": len(turn.message),
            "answer_chars": len(turn.answer or ""),
            "steps": len(turn.steps),
            "services": len(turn.services),
        },
        "usage": turn.usage,
    }

"""Turns to measure with."""

from __future__ import annotations

import secrets
from typing import Any

from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnEnvelope, UserType

TEXT = "How do I change the battery of the remote control that came with it?" * 3


def envelope(*, bundle_id: str = "echo@1.0.0", payload: dict[str, Any] | None = None) -> TurnEnvelope:
    """A turn of a user and in a conversation of its own."""
    user = new_id()
    return TurnEnvelope(
        turn_id=new_id(),
        client_turn_id=f"turn_{new_id()}",
        tenant="bench",
        project="main",
        user_id=user,
        user_type=UserType.REGISTERED,
        session_id=user,
        request_id=new_id(),
        conversation_id=new_id(),
        bundle_id=bundle_id,
        text=TEXT,
        content_hash=secrets.token_hex(32),
        payload=payload or {},
    )

"""The head of a log: what stays the same through an attempt and is joined to each event that a client sees.

A head is JSON members without their braces, so that a projection puts an event together by joining bytes.
"""

from __future__ import annotations

import msgspec

from kdcube.protocol.turns import TurnEnvelope

_JSON = msgspec.json.Encoder()


def encode_head(envelope: TurnEnvelope, bundle_version: str | None) -> bytes:
    """``"service":{...},"conversation":{...},"bundle":{...}`` of a turn; ``bundle_version`` is None before START."""
    return head_of(
        request_id=envelope.request_id,
        tenant=envelope.tenant,
        project=envelope.project,
        user_id=envelope.user_id,
        user_type=envelope.user_type,
        session_id=envelope.session_id,
        conversation_id=envelope.conversation_id,
        client_turn_id=envelope.client_turn_id,
        turn_id=envelope.turn_id,
        bundle_id=envelope.bundle_id,
        bundle_version=bundle_version,
    )


def head_of(
    *,
    request_id: str,
    tenant: str,
    project: str,
    user_id: str,
    user_type: str,
    session_id: str,
    conversation_id: str,
    client_turn_id: str,
    turn_id: str,
    bundle_id: str,
    bundle_version: str | None,
) -> bytes:
    """The head from its parts. In it ``turn_id`` is the client's id and ``task_id`` the internal one."""
    members = {
        "service": {
            "request_id": request_id,
            "tenant": tenant,
            "project": project,
            "user": user_id,
            "user_type": user_type,
        },
        "conversation": {
            "session_id": session_id,
            "conversation_id": conversation_id,
            "turn_id": client_turn_id,
            "task_id": turn_id,
        },
        "bundle": {"id": bundle_id, "version": bundle_version},
    }
    return _JSON.encode(members)[1:-1]

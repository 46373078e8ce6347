"""Sending messages, following them, and what a caller may do."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    COUNT,
    EVENTS,
    IDEMPOTENCY_KEY,
    OPENED,
    OWNED,
    TEXT,
    TIME,
    TURN,
    USER_TYPE,
    Json,
    array_of,
    body_of,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)
from kdcube.gateway.turns.messages import Send
from kdcube.ingress.requests import Cancel, Status

SCHEMAS: Json = {
    "Accepted": object_of(
        {
            "status": {"const": "processing_started"},
            "task_id": TEXT,
            "turn_id": TEXT,
            "conversation_id": TEXT,
            "session_id": TEXT,
            "user_type": USER_TYPE,
            "position": COUNT,
        },
        {
            "eta_s": {"type": "number", "minimum": 0},
            "receipt": object_of(
                {"id": TEXT, "state": {"enum": ["accepted", "seen", "applied", "bounced", "cancelled"]}}
            ),
            "duplicate": {"const": True},
        },
    ),
    "Cancelled": object_of({"status": {"enum": ["cancelling", "already_ended"]}}),
    "ConversationStatus": object_of(
        {
            "conversation_id": TEXT,
            "state": {"enum": ["idle", "queued", "in_progress"]},
            "current_turn_id": nullable(TEXT),
            "current_task_id": nullable(TEXT),
            "updated_at": TIME,
        }
    ),
    "Bundle": object_of(
        {
            "id": TEXT,
            "name": TEXT,
            "description": nullable(TEXT),
            "default": {"type": "boolean"},
            "required_user_type": nullable(USER_TYPE),
        }
    ),
    "Bundles": object_of({"items": array_of(ref("Bundle")), "default_bundle_id": nullable(TEXT)}),
    "Left": object_of({"left": COUNT, "reset_s": COUNT}),
    "Profile": object_of(
        {
            "user_type": USER_TYPE,
            "user_id": TEXT,
            "username": nullable(TEXT),
            "email": nullable(TEXT),
            "roles": array_of(TEXT),
            "session_id": TEXT,
            "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
            "limits_left": nullable({"type": "object", "additionalProperties": ref("Left")}),
            "bundles": array_of(ref("Bundle")),
            "default_bundle_id": nullable(TEXT),
        },
        {"conversations_taken_over": COUNT},
    ),
}

_CURSOR = parameter("query", "cursor", TEXT, "Where to go on; the header Last-Event-ID goes first")
_STREAM_QUERY = tuple(
    parameter("query", name, TEXT, description)
    for name, description in (
        ("user_session_id", "The session, as `/profile` told it"),
        ("bearer_token", "For clients that can set no header"),
        ("id_token", "For clients that can set no header"),
    )
)
_FORM: Json = {"type": "object", "properties": {"message": ref("Send")}, "required": ["message"]}
_AS_JSON: Json = {"message": {"contentType": "application/json"}}

PATHS: Json = {
    "/sse/chat": {
        "post": operation(
            "Send a message",
            content(ref("Accepted")),
            status=202,
            body={**body_of(Send), "multipart/form-data": {"schema": _FORM, "encoding": _AS_JSON}},
            parameters=(IDEMPOTENCY_KEY,),
            errors=(*OPENED, 404, 409, 413),
            opens=True,
        )
    },
    "/sse/cancel": {
        "post": operation(
            "Cancel a turn or all of a conversation",
            content(ref("Cancelled")),
            body=body_of(Cancel),
            errors=(400, 413, *OWNED),
        )
    },
    "/sse/conv_status.get": {
        "post": operation(
            "How a conversation stands",
            content(ref("ConversationStatus")),
            body=body_of(Status),
            errors=(400, 413, *OWNED),
        )
    },
    "/sse/stream": {
        "get": operation(
            "The caller's events",
            EVENTS,
            parameters=(parameter("query", "stream_id", TEXT, "Names the stream"), *_STREAM_QUERY, _CURSOR),
            errors=OPENED,
            opens=True,
        )
    },
    "/turns/{turn_id}/stream": {
        "get": operation(
            "One turn's events",
            EVENTS,
            parameters=(
                TURN,
                *_STREAM_QUERY,
                _CURSOR,
                parameter("query", "offset", TEXT, "Instead of a cursor: how many events to leave out"),
            ),
            errors=(400, *OWNED),
        )
    },
    "/profile": {"get": operation("Who the caller is", content(ref("Profile")), errors=(401, 403, 429), opens=True)},
    "/bundles": {"get": operation("What there is", content(ref("Bundles")), errors=(), public=True)},
}

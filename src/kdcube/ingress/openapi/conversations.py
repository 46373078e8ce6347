"""Conversations: reading, changing and deleting them, and what users say of answers."""

from __future__ import annotations

from kdcube.config.gateway import Limits
from kdcube.gateway.openapi.shapes import (
    COUNT,
    IDEMPOTENCY_KEY,
    OBJECTS,
    OWNED,
    STATE,
    TEXT,
    TIME,
    TURN,
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
from kdcube.ingress.requests import Feedback, Patch

SCHEMAS: Json = {
    "ConversationItem": object_of(
        {
            "conversation_id": TEXT,
            "title": TEXT,
            "started_at": TIME,
            "last_activity_at": TIME,
            "pinned": {"type": "boolean"},
        }
    ),
    "Conversations": object_of({"items": array_of(ref("ConversationItem")), "next": nullable(TEXT)}),
    "FeedbackGiven": object_of({"reaction": nullable(TEXT), "text": nullable(TEXT)}),
    "FeedbackStored": object_of({"task_id": TEXT, "feedback": ref("FeedbackGiven")}),
    "Turn": object_of(
        {
            "task_id": TEXT,
            "turn_id": TEXT,
            "state": STATE,
            "attempt": COUNT,
            "parent_turn_id": nullable(TEXT),
            "bundle": object_of({"id": TEXT, "version": nullable(TEXT)}),
            "message": TEXT,
            "answer": TEXT,
            "text": {"type": "object", "additionalProperties": TEXT},
            "steps": OBJECTS,
            "citations": array_of({}),
            "followups": array_of({}),
            "artifacts": array_of({}),
            "usage": OBJECTS,
            "error": nullable({"type": "object"}),
            "accepted_at": TIME,
            "started_at": nullable(TIME),
            "ended_at": nullable(TIME),
            "feedback": nullable(ref("FeedbackGiven")),
        },
        {
            "siblings": array_of(TEXT),
            "steers": array_of(object_of({"task_id": TEXT, "turn_id": TEXT, "message": TEXT})),
        },
    ),
    "Conversation": {
        "allOf": [
            ref("ConversationItem"),
            object_of(
                {
                    "head_turn_id": nullable(TEXT),
                    "turns": array_of(ref("Turn")),
                    "pending": array_of(ref("Turn")),
                    "unstarted": array_of(ref("Turn")),
                }
            ),
        ]
    },
    "Deleted": object_of({"status": {"const": "deleted"}, "conversation_id": TEXT}),
}

_PAGE_CURSOR: Json = {"type": "string", "pattern": "^(c1\\.[0-9]{1,15}\\.[!-~]{1,128})?$"}
_CONVERSATION = parameter("path", "conversation_id", TEXT, "The conversation")


def paths(limits: Limits) -> Json:
    return {
        "/conversations": {
            "get": operation(
                "The caller's conversations, newest activity first",
                content(ref("Conversations")),
                parameters=(
                    parameter("query", "cursor", _PAGE_CURSOR, "`next` of the page before"),
                    parameter(
                        "query", "limit", {"type": "integer", "minimum": 1, "maximum": limits.max_page_items}, "Items"
                    ),
                    parameter(
                        "query",
                        "q",
                        {"type": "string", "maxLength": limits.max_search_chars},
                        "Looked for in titles, messages and answers",
                    ),
                ),
                errors=(400, 401, 403),
            )
        },
        "/conversations/{conversation_id}": {
            "parameters": [_CONVERSATION],
            "get": operation("A conversation and its active branch", content(ref("Conversation")), errors=OWNED),
            "patch": operation(
                "Rename, pin, show another branch",
                content(ref("ConversationItem")),
                body=body_of(Patch),
                errors=(400, 413, *OWNED),
            ),
            "delete": operation("Delete; cancels what runs", content(ref("Deleted")), errors=OWNED),
        },
        "/conversations/{conversation_id}/restore": {
            "parameters": [_CONVERSATION],
            "post": operation("Take a deletion back", content(ref("ConversationItem")), errors=OWNED),
        },
        "/conversations/{conversation_id}/export": {
            "parameters": [_CONVERSATION],
            "get": operation(
                "All turns, as a download",
                {**content({"type": "object"}), "text/markdown": {"schema": TEXT}},
                parameters=(parameter("query", "format", {"enum": ["json", "md"], "default": "json"}, "Format"),),
                errors=(400, *OWNED),
            ),
        },
        "/conversations/{conversation_id}/turns/{turn_id}/feedback": {
            "parameters": [_CONVERSATION, TURN],
            "put": operation(
                "Say what the answer was worth",
                content(ref("FeedbackStored")),
                body=body_of(Feedback),
                errors=(400, 413, *OWNED),
            ),
        },
        "/conversations/{conversation_id}/turns/{turn_id}/retry": {
            "parameters": [_CONVERSATION, TURN],
            "post": operation(
                "The same message again, beside the turn",
                content(ref("Accepted")),
                status=202,
                parameters=(IDEMPOTENCY_KEY,),
                errors=(400, 409, 429, *OWNED),
            ),
        },
    }

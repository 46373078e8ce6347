"""The OpenAPI document. Bodies are described by the very types that decode them; the rest is kept by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kdcube.config.gateway import Limits
from kdcube.gateway.edge import PREFIX
from kdcube.gateway.rate_fields import NAMES as RATE_FIELDS
from kdcube.gateway.turns.messages import Send
from kdcube.ingress.requests import (
    FEEDBACK_MAX_CHARS,
    REACTION_MAX_CHARS,
    REASON_MAX_CHARS,
    Cancel,
    Feedback,
    Patch,
    Status,
)
from kdcube.ingress.routes.api_keys import NewKey, NewServiceKey
from kdcube.ingress.routes.openai_request import ChatCompletion
from kdcube.postgres.api_keys import MAX_PAGE
from kdcube.protocol.ids import USER_ID_MAX_CHARS

Json = dict[str, Any]

_BODIES = (Send, Cancel, Status, Patch, Feedback, ChatCompletion, NewKey, NewServiceKey)
_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$"}
_PAGE_CURSOR: Json = {"type": "string", "pattern": "^(c1\\.[0-9]{1,15}\\.[!-~]{1,128})?$"}
_TIME: Json = {"type": "string", "format": "date-time"}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_USER_TYPE: Json = {"enum": ["privileged", "paid", "registered", "anonymous", "external"]}
_STATE: Json = {
    "enum": ["queued", "running", "completed", "failed", "cancelled", "interrupted", "steering", "applied"],
}
_OBJECTS = _array({"type": "object"})

_SCHEMAS: Json = {
    "Erasure": _object(
        {
            "erasure_id": _TEXT,
            "user_id": _TEXT,
            "status": {"enum": ["erasing", "erased"]},
            "requested_at": _TIME,
            "done_at": _nullable(_TIME),
            "erased": _object(dict.fromkeys(("conversations", "turns", "feedback", "api_keys", "logins"), _COUNT)),
        }
    ),
    "Error": _object(
        {"error": _TEXT, "message": _TEXT, "request_id": _TEXT},
        {"field": _TEXT, "retry_after_s": {"type": "integer", "minimum": 1}},
    ),
    "Accepted": _object(
        {
            "status": {"const": "processing_started"},
            "task_id": _TEXT,
            "turn_id": _TEXT,
            "conversation_id": _TEXT,
            "session_id": _TEXT,
            "user_type": _USER_TYPE,
            "position": _COUNT,
        },
        {
            "eta_s": {"type": "number", "minimum": 0},
            "receipt": _object(
                {"id": _TEXT, "state": {"enum": ["accepted", "seen", "applied", "bounced", "cancelled"]}}
            ),
            "duplicate": {"const": True},
        },
    ),
    "Cancelled": _object({"status": {"enum": ["cancelling", "already_ended"]}}),
    "ConversationStatus": _object(
        {
            "conversation_id": _TEXT,
            "state": {"enum": ["idle", "queued", "in_progress"]},
            "current_turn_id": _nullable(_TEXT),
            "current_task_id": _nullable(_TEXT),
            "updated_at": _TIME,
        }
    ),
    "Bundle": _object(
        {
            "id": _TEXT,
            "name": _TEXT,
            "description": _nullable(_TEXT),
            "default": {"type": "boolean"},
            "required_user_type": _nullable(_USER_TYPE),
        }
    ),
    "Bundles": _object({"items": _array(_ref("Bundle")), "default_bundle_id": _nullable(_TEXT)}),
    "Left": _object({"left": _COUNT, "reset_s": _COUNT}),
    "Profile": _object(
        {
            "user_type": _USER_TYPE,
            "user_id": _TEXT,
            "username": _nullable(_TEXT),
            "email": _nullable(_TEXT),
            "roles": _array(_TEXT),
            "session_id": _TEXT,
            "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
            "limits_left": _nullable({"type": "object", "additionalProperties": _ref("Left")}),
            "bundles": _array(_ref("Bundle")),
            "default_bundle_id": _nullable(_TEXT),
        },
        {"conversations_taken_over": _COUNT},
    ),
    "ApiKey": _object(
        {
            "id": _TEXT,
            "name": _TEXT,
            "user_id": _TEXT,
            "user_type": _USER_TYPE,
            "roles": _array(_TEXT),
            "scopes": _array({"enum": ["chat", "read", "admin"]}),
            "created_by": _TEXT,
            "created_at": _TIME,
            "expires_at": _TIME,
            "revoked_at": _nullable(_TIME),
            "last_used_at": _nullable(_TIME),
        }
    ),
    "ApiKeys": _object({"items": _array(_ref("ApiKey")), "next": _nullable(_TEXT)}),
    "NewApiKey": _object({"key": _TEXT, "api_key": _ref("ApiKey")}),
    "Revoked": _object({"status": {"const": "revoked"}, "id": _TEXT}),
    "ConversationItem": _object(
        {
            "conversation_id": _TEXT,
            "title": _TEXT,
            "started_at": _TIME,
            "last_activity_at": _TIME,
            "pinned": {"type": "boolean"},
        }
    ),
    "Conversations": _object({"items": _array(_ref("ConversationItem")), "next": _nullable(_TEXT)}),
    "FeedbackGiven": _object({"reaction": _nullable(_TEXT), "text": _nullable(_TEXT)}),
    "FeedbackStored": _object({"task_id": _TEXT, "feedback": _ref("FeedbackGiven")}),
    "Turn": _object(
        {
            "task_id": _TEXT,
            "turn_id": _TEXT,
            "state": _STATE,
            "attempt": _COUNT,
            "parent_turn_id": _nullable(_TEXT),
            "bundle": _object({"id": _TEXT, "version": _nullable(_TEXT)}),
            "message": _TEXT,
            "answer": _TEXT,
            "text": {"type": "object", "additionalProperties": _TEXT},
            "steps": _OBJECTS,
            "citations": _array({}),
            "followups": _array({}),
            "artifacts": _array({}),
            "usage": _OBJECTS,
            "error": _nullable({"type": "object"}),
            "accepted_at": _TIME,
            "started_at": _nullable(_TIME),
            "ended_at": _nullable(_TIME),
            "feedback": _nullable(_ref("FeedbackGiven")),
        },
        {
            "siblings": _array(_TEXT),
            "steers": _array(_object({"task_id": _TEXT, "turn_id": _TEXT, "message": _TEXT})),
        },
    ),
    "Conversation": {
        "allOf": [
            _ref("ConversationItem"),
            _object(
                {
                    "head_turn_id": _nullable(_TEXT),
                    "turns": _array(_ref("Turn")),
                    "pending": _array(_ref("Turn")),
                    "unstarted": _array(_ref("Turn")),
                }
            ),
        ]
    },
    "Deleted": _object({"status": {"const": "deleted"}, "conversation_id": _TEXT}),
    "OpenAIError": _object(
        {"error": _object({"message": _TEXT, "type": _TEXT, "param": _nullable(_TEXT), "code": _TEXT})}
    ),
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}),
    "Models": _object({"object": {"const": "list"}, "data": _array(_ref("Model"))}),
    "Completion": _object(
        {
            "id": _TEXT,
            "object": {"const": "chat.completion"},
            "created": _COUNT,
            "model": _TEXT,
            "choices": _array(
                _object(
                    {
                        "index": _COUNT,
                        "message": _object(
                            {"role": {"const": "assistant"}, "content": _TEXT}, {"reasoning_content": _TEXT}
                        ),
                        "finish_reason": {"enum": ["stop", "length"]},
                    }
                )
            ),
            "usage": _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT}),
            "kdcube": _object(
                {"turn_id": _TEXT, "conversation_id": _TEXT},
                {"citations": _array({}), "followups": _array({}), "steps": _OBJECTS},
            ),
        }
    ),
    "GatewayConfig": _object(
        {
            "version": _COUNT,
            "checksum": _TEXT,
            "origin": {"enum": ["put", "patch", "reset", "rollback", "environment"]},
            "document": {"type": "object"},
            "resolved": {"type": "object"},
            "environment": {"type": "object"},
            "this_instance": {"type": "object"},
            "instances": _nullable(_OBJECTS),
        },
        {
            "author": _nullable(_TEXT),
            "reason": _nullable(_TEXT),
            "created_ms": _nullable(_COUNT),
        },
    ),
    "ConfigChange": _object(
        {
            "checksum": _TEXT,
            "changes": _array(_object({"path": _TEXT, "before": {}, "after": {}})),
            "needs_restart": _array(_object({"path": _TEXT, "component": {"enum": ["ingress", "proc"]}})),
            "warnings": _OBJECTS,
        },
        {"changed": {"type": "boolean"}, "version": _COUNT, "resolved": {"type": "object"}},
    ),
    "ConfigVerdict": _object({"valid": {"type": "boolean"}}, {"errors": _OBJECTS}),
    "Page": _object({"items": _OBJECTS, "next": _nullable(_TEXT)}),
    "TurnFacts": _object(
        {"turn_id": _TEXT, "user_id": _TEXT, "state": _STATE, "attempt": _COUNT, "accepted_ms": _COUNT},
        {"claim_id": _nullable(_TEXT), "worker_id": _nullable(_TEXT), "bundle_version": _nullable(_TEXT)},
    ),
    "System": _object(
        {"at_ms": _COUNT, "config": {"type": "object"}},
        {
            "instances": _OBJECTS,
            "streams": {"type": "object"},
            "latency": {"type": "object"},
            "turns": {"type": "object"},
            "refused": {"type": "object"},
            "pressure": {"type": "object"},
            "queue": {},
        },
    ),
    "Health": _object(
        {"status": {"const": "alive"}, "service": _TEXT, "instance": _TEXT, "version": _TEXT, "config_checksum": _TEXT}
    ),
    "Ready": _object(
        {"status": {"const": "ready"}, "checks": {"type": "object", "additionalProperties": _TEXT}, "service": _TEXT}
    ),
    "NotReady": {
        "allOf": [
            _ref("Error"),
            _object({"status": {"enum": ["not_ready", "draining"]}, "failing": _array(_TEXT)}),
        ]
    },
}

_MEANINGS = {
    400: "The request is not valid; `field` names what",
    401: "Sign in, or ask `/profile` for a session",
    403: "Not for this caller",
    404: "There is no such thing, or it is not the caller's",
    408: "The body came too slowly",
    409: "The request contradicts what is there",
    412: "It is another version now",
    413: "The body is too large",
    428: "Say by If-Match which version is to be replaced",
    429: "Too many requests",
    500: "The turn has failed",
    503: "Not now: wait for `retry_after_s`",
}


RATE_DRAFT = "As draft-ietf-httpapi-ratelimit-headers-11; also on answers to messages that were accepted"

_SECURITY: list[Json] = [{"bearer": []}, {"session": []}, {"cookie": []}]


def _content(schema: Json, media: str = "application/json") -> Json:
    return {media: {"schema": schema}}


def _operation(
    summary: str,
    answer: Json,
    *,
    errors: tuple[int, ...],
    status: int = 200,
    body: Json | None = None,
    parameters: tuple[Json, ...] = (),
    public: bool = False,
    opens: bool = False,
    shape: str = "Error",
) -> Json:
    always = [503, *(() if public else (429,)), *(() if body is None else (408,))]
    operation: Json = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            str(status): {"description": "Done", "content": answer},
            **{str(code): _error(code, shape) for code in sorted({*errors, *always})},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if public:
        operation["security"] = []
    if opens:  # who brings no credentials becomes a new anonymous user
        operation["security"] = [{}, *_SECURITY]
    return operation


def _error(code: int, shape: str) -> Json:
    answer: Json = {"description": _MEANINGS[code], "content": _content(_ref(shape))}
    if code in (429, 503):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    if code == 429:
        for name in RATE_FIELDS:
            answer["headers"][name] = {"schema": {"type": "string"}, "description": RATE_DRAFT}
    return answer


def _parameter(place: str, name: str, schema: Json, description: str) -> Json:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": schema,
        "description": description,
    }


_CONVERSATION = _parameter("path", "conversation_id", _TEXT, "The conversation")
_TURN = _parameter("path", "turn_id", _TEXT, "The turn: the internal id or the client's")
_KEY = _parameter("header", "Idempotency-Key", _ID, "A repeat under the same key attaches to the same turn")
_CURSOR = _parameter("query", "cursor", _TEXT, "Where to go on; the header Last-Event-ID goes first")
_STREAM_QUERY = tuple(
    _parameter("query", name, _TEXT, description)
    for name, description in (
        ("user_session_id", "The session, as `/profile` told it"),
        ("bearer_token", "For clients that can set no header"),
        ("id_token", "For clients that can set no header"),
    )
)
_EVENTS = _content(_TEXT, "text/event-stream")
_ERASURE = _parameter("path", "erasure_id", _ID, "As `DELETE` told it")
_USER_ID: Json = {"type": "string", "minLength": 1, "maxLength": USER_ID_MAX_CHARS}
_OWNED = (401, 403, 404)
_KEY_ID = _parameter("path", "key_id", _TEXT, "The key's id, which is no secret")
_KEYS_PAGE = (
    _parameter(
        "query",
        "cursor",
        {"type": "string", "pattern": "^(k1\\.[0-9]{1,15}\\.[A-Za-z0-9]{1,32})?$"},
        "`next` of the page before",
    ),
    _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "Items"),
)


def _bodies(limits: Limits, bundle_ids: Sequence[str]) -> Json:
    """The bodies' types, with what their routes ask beyond them."""
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    text: Json = {"type": "string", "minLength": 1, "maxLength": limits.max_text_chars}
    message = schemas["Message"]
    message["properties"]["bundle_id"] = _nullable({"enum": list(bundle_ids)})
    message["anyOf"] = [
        {"required": ["text"], "properties": {"text": text}},
        {"required": ["message"], "properties": {"message": text, "text": {"enum": [None, ""]}}},
        {"required": ["payload"], "properties": {"payload": {"type": "object", "minProperties": 1}}},
    ]
    schemas["ChatCompletion"]["properties"]["model"] = {"enum": list(bundle_ids)}
    schemas["Cancel"]["oneOf"] = [
        {"required": [one], "properties": {one: _ID, other: {"type": "null"}}}
        for one, other in (("turn_id", "conversation_id"), ("conversation_id", "turn_id"))
    ]
    title: Json = {"type": "string", "pattern": "^[^\\s]+( [^\\s]+)*$", "maxLength": limits.max_title_chars}
    schemas["Patch"]["properties"]["title"] = _nullable(title)
    schemas["Feedback"]["properties"] = {
        "reaction": _nullable({"type": "string", "minLength": 1, "maxLength": REACTION_MAX_CHARS}),
        "text": _nullable({"type": "string", "maxLength": FEEDBACK_MAX_CHARS}),
    }
    return schemas


def _paths(limits: Limits) -> Json:
    def body(type_: type) -> Json:
        return _content(_ref(type_.__name__))

    form = {"type": "object", "properties": {"message": _ref("Send")}, "required": ["message"]}
    as_json = {"message": {"contentType": "application/json"}}
    opened = (400, 401, 403, 429)
    return {
        "/sse/chat": {
            "post": _operation(
                "Send a message",
                _content(_ref("Accepted")),
                status=202,
                body={**body(Send), "multipart/form-data": {"schema": form, "encoding": as_json}},
                parameters=(_KEY,),
                errors=(*opened, 404, 409, 413),
                opens=True,
            )
        },
        "/sse/cancel": {
            "post": _operation(
                "Cancel a turn or all of a conversation",
                _content(_ref("Cancelled")),
                body=body(Cancel),
                errors=(400, 413, *_OWNED),
            )
        },
        "/sse/conv_status.get": {
            "post": _operation(
                "How a conversation stands",
                _content(_ref("ConversationStatus")),
                body=body(Status),
                errors=(400, 413, *_OWNED),
            )
        },
        "/sse/stream": {
            "get": _operation(
                "The caller's events",
                _EVENTS,
                parameters=(_parameter("query", "stream_id", _TEXT, "Names the stream"), *_STREAM_QUERY, _CURSOR),
                errors=opened,
                opens=True,
            )
        },
        "/turns/{turn_id}/stream": {
            "get": _operation(
                "One turn's events",
                _EVENTS,
                parameters=(
                    _TURN,
                    *_STREAM_QUERY,
                    _CURSOR,
                    _parameter("query", "offset", _TEXT, "Instead of a cursor: how many events to leave out"),
                ),
                errors=(400, *_OWNED),
            )
        },
        "/profile": {
            "get": _operation("Who the caller is", _content(_ref("Profile")), errors=(401, 403, 429), opens=True)
        },
        "/bundles": {"get": _operation("What there is", _content(_ref("Bundles")), errors=(), public=True)},
        "/conversations": {
            "get": _operation(
                "The caller's conversations, newest activity first",
                _content(_ref("Conversations")),
                parameters=(
                    _parameter("query", "cursor", _PAGE_CURSOR, "`next` of the page before"),
                    _parameter(
                        "query", "limit", {"type": "integer", "minimum": 1, "maximum": limits.max_page_items}, "Items"
                    ),
                    _parameter(
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
            "get": _operation("A conversation and its active branch", _content(_ref("Conversation")), errors=_OWNED),
            "patch": _operation(
                "Rename, pin, show another branch",
                _content(_ref("ConversationItem")),
                body=body(Patch),
                errors=(400, 413, *_OWNED),
            ),
            "delete": _operation("Delete; cancels what runs", _content(_ref("Deleted")), errors=_OWNED),
        },
        "/conversations/{conversation_id}/restore": {
            "parameters": [_CONVERSATION],
            "post": _operation("Take a deletion back", _content(_ref("ConversationItem")), errors=_OWNED),
        },
        "/conversations/{conversation_id}/export": {
            "parameters": [_CONVERSATION],
            "get": _operation(
                "All turns, as a download",
                {**_content({"type": "object"}), "text/markdown": {"schema": _TEXT}},
                parameters=(_parameter("query", "format", {"enum": ["json", "md"], "default": "json"}, "Format"),),
                errors=(400, *_OWNED),
            ),
        },
        "/conversations/{conversation_id}/turns/{turn_id}/feedback": {
            "parameters": [_CONVERSATION, _TURN],
            "put": _operation(
                "Say what the answer was worth",
                _content(_ref("FeedbackStored")),
                body=body(Feedback),
                errors=(400, 413, *_OWNED),
            ),
        },
        "/conversations/{conversation_id}/turns/{turn_id}/retry": {
            "parameters": [_CONVERSATION, _TURN],
            "post": _operation(
                "The same message again, beside the turn",
                _content(_ref("Accepted")),
                status=202,
                parameters=(_KEY,),
                errors=(400, 409, 429, *_OWNED),
            ),
        },
        "/me": {
            "delete": _operation(
                "Erase all of the caller's data; what they send afterwards is kept",
                _content(_ref("Erasure")),
                status=202,
                errors=(401, 403),
            )
        },
        "/me/erasures/{erasure_id}": {
            "parameters": [_ERASURE],
            "get": _operation("How far it is, and what was erased", _content(_ref("Erasure")), errors=_OWNED),
        },
        "/admin/users/{user_id}": {
            "parameters": [_parameter("path", "user_id", _USER_ID, "As the identity provider calls them")],
            "delete": _operation(
                "For administrators: erase all of a user's data",
                _content(_ref("Erasure")),
                status=202,
                errors=_OWNED,
            ),
        },
        "/admin/erasures/{erasure_id}": {
            "parameters": [_ERASURE],
            "get": _operation(
                "For administrators: how far it is, and what was erased", _content(_ref("Erasure")), errors=_OWNED
            ),
        },
        "/v1/models": {
            "get": _operation(
                "The bundles that the caller may use, as models",
                _content(_ref("Models")),
                errors=(401, 403, 429),
                opens=True,
                shape="OpenAIError",
            )
        },
        "/v1/models/{model}": {
            "get": _operation(
                "One bundle as a model",
                _content(_ref("Model")),
                parameters=(_parameter("path", "model", _TEXT, "The bundle's id"),),
                errors=(401, 403, 404, 429),
                opens=True,
                shape="OpenAIError",
            )
        },
        "/v1/chat/completions": {
            "post": _operation(
                "A turn as a chat completion; its events with `stream`",
                {**_content(_ref("Completion")), **_EVENTS},
                body=body(ChatCompletion),
                parameters=(_KEY,),
                errors=(*opened, 404, 409, 413, 500),
                opens=True,
                shape="OpenAIError",
            )
        },
        "/api-keys": {
            "get": _operation(
                "The caller's API keys, newest first, also those of the past",
                _content(_ref("ApiKeys")),
                parameters=_KEYS_PAGE,
                errors=(400, 401, 403),
            ),
            "post": _operation(
                "Make a key that acts as the caller; only this answer has its text",
                _content(_ref("NewApiKey")),
                status=201,
                body=body(NewKey),
                errors=(400, 401, 403, 409, 413),
            ),
        },
        "/api-keys/{key_id}": {
            "parameters": [_KEY_ID],
            "delete": _operation("Revoke one of the caller's keys", _content(_ref("Revoked")), errors=_OWNED),
        },
        "/admin/api-keys": {
            "get": _operation(
                "All API keys, newest first",
                _content(_ref("ApiKeys")),
                parameters=(_parameter("query", "user_id", _TEXT, "Only those that act as this user"), *_KEYS_PAGE),
                errors=(400, 401, 403),
            ),
            "post": _operation(
                "Make a key that acts as a service; only this answer has its text",
                _content(_ref("NewApiKey")),
                status=201,
                body=body(NewServiceKey),
                errors=(400, 401, 403, 409, 413),
            ),
        },
        "/admin/api-keys/{key_id}": {
            "parameters": [_KEY_ID],
            "delete": _operation("Revoke any key", _content(_ref("Revoked")), errors=_OWNED),
        },
        **_admin_paths(),
        "/health": {"get": _operation("Whether the process lives", _content(_ref("Health")), errors=(), public=True)},
        "/ready": {
            "get": {
                **_operation("Whether it can be sent requests", _content(_ref("Ready")), errors=(), public=True),
                "responses": {
                    "200": {"description": "Ready", "content": _content(_ref("Ready"))},
                    "503": {"description": "Not ready", "content": _content(_ref("NotReady"))},
                },
            }
        },
    }


def _admin_paths() -> Json:
    """For administrators: what is not about API keys."""
    under = "/admin/gateway-config"
    document = _content({"type": "object"})
    changed, refused = _content(_ref("ConfigChange")), (400, 401, 403, 408, 409, 412, 413)
    reason = _parameter("query", "reason", {"type": "string", "maxLength": REASON_MAX_CHARS}, "For the history")
    match = _parameter("header", "If-Match", _TEXT, "The checksum or the number of the version that is built upon")

    def page(cursor: str, largest: int) -> tuple[Json, ...]:
        return (
            _parameter("query", "cursor", {"type": "string", "pattern": cursor}, "`next` of the page before"),
            _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": largest}, "Items"),
        )

    return {
        under: {
            "get": _operation(
                "The configuration that is to be run, and what each process runs",
                _content(_ref("GatewayConfig")),
                errors=(401, 403),
            ),
            "put": _operation(
                "Replace the configuration",
                changed,
                body=document,
                parameters=(match, reason),
                errors=(*refused, 428),
            ),
            "patch": _operation(
                "Change a part of it, by a JSON merge patch",
                changed,
                body=document,
                parameters=(match, reason),
                errors=refused,
            ),
        },
        f"{under}/validate": {
            "post": _operation(
                "A dry run of a `document` or of a `patch`",
                _content({"anyOf": [_ref("ConfigVerdict"), _ref("ConfigChange")]}),
                body=document,
                errors=(400, 401, 403, 408, 413),
            )
        },
        f"{under}/reset": {
            "post": _operation("Back to what the environment says", changed, parameters=(match, reason), errors=refused)
        },
        f"{under}/rollback": {
            "post": _operation(
                "An earlier version as a new one",
                changed,
                body=_content(_object({"version": {"type": "integer", "minimum": 1}})),
                parameters=(match, reason),
                errors=(*refused, 404),
            )
        },
        f"{under}/history": {
            "get": _operation(
                "All versions, newest first, with what each changed",
                _content(_ref("Page")),
                parameters=page("^(v1\\.[0-9]{1,18})?$", 100),
                errors=(400, 401, 403),
            )
        },
        "/admin/audit": {
            "get": _operation(
                "Who did what, newest first",
                _content(_ref("Page")),
                parameters=(
                    *page("^(a1\\.[0-9]{1,18})?$", 200),
                    _parameter("query", "actor", _TEXT, "Only of this user or part of the system"),
                    _parameter("query", "act", _TEXT, "Only of this kind"),
                ),
                errors=(400, 401, 403),
            )
        },
        "/admin/turns/{turn_id}": {
            "parameters": [_parameter("path", "turn_id", _TEXT, "The internal id")],
            "get": _operation(
                "What became of any turn, without what was said", _content(_ref("TurnFacts")), errors=_OWNED
            ),
        },
        "/monitoring/system": {"get": _operation("How the system stands", _content(_ref("System")), errors=(401, 403))},
    }


def openapi_document(version: str, limits: Limits, bundle_ids: Sequence[str]) -> Json:
    """OpenAPI 3.1. Every path is served under PREFIX as well."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KDCube ingress",
            "version": version,
            "description": "Messages in, events out. Errors have one shape; under /v1, that of OpenAI's API.",
        },
        "servers": [{"url": "/"}, {"url": PREFIX}],
        "security": _SECURITY,
        "paths": _paths(limits),
        "components": {
            "schemas": {**_SCHEMAS, **_bodies(limits, bundle_ids)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "header", "name": "User-Session-ID"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "kdcube_session"},
            },
        },
    }

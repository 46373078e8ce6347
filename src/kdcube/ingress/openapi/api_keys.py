"""API keys: of the caller, and for administrators of everybody."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    OWNED,
    TEXT,
    TIME,
    USER_ID,
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
from kdcube.ingress.routes.api_keys import NewKey, NewServiceKey
from kdcube.postgres.api_keys import MAX_PAGE

SCHEMAS: Json = {
    "ApiKey": object_of(
        {
            "id": TEXT,
            "name": TEXT,
            "user_id": TEXT,
            "user_type": USER_TYPE,
            "roles": array_of(TEXT),
            "scopes": array_of({"enum": ["chat", "read", "admin"]}),
            "created_by": TEXT,
            "created_at": TIME,
            "expires_at": TIME,
            "revoked_at": nullable(TIME),
            "last_used_at": nullable(TIME),
        }
    ),
    "ApiKeys": object_of({"items": array_of(ref("ApiKey")), "next": nullable(TEXT)}),
    "NewApiKey": object_of({"key": TEXT, "api_key": ref("ApiKey")}),
    "Revoked": object_of({"status": {"const": "revoked"}, "id": TEXT}),
    "AllRevoked": object_of({"status": {"const": "revoked"}, "ids": array_of(TEXT)}),
}

_KEY_ID = parameter("path", "key_id", TEXT, "The key's id, which is no secret")
_KEYS_PAGE = (
    parameter(
        "query",
        "cursor",
        {"type": "string", "pattern": "^(k1\\.[0-9]{1,15}\\.[A-Za-z0-9]{1,32})?$"},
        "`next` of the page before",
    ),
    parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "Items"),
)

PATHS: Json = {
    "/api-keys": {
        "get": operation(
            "The caller's API keys, newest first, also those of the past",
            content(ref("ApiKeys")),
            parameters=_KEYS_PAGE,
            errors=(400, 401, 403),
        ),
        "post": operation(
            "Make a key that acts as the caller; only this answer has its text",
            content(ref("NewApiKey")),
            status=201,
            body=body_of(NewKey),
            errors=(400, 401, 403, 409, 413),
        ),
    },
    "/api-keys/{key_id}": {
        "parameters": [_KEY_ID],
        "delete": operation("Revoke one of the caller's keys", content(ref("Revoked")), errors=OWNED),
    },
    "/admin/api-keys": {
        "get": operation(
            "All API keys, newest first",
            content(ref("ApiKeys")),
            parameters=(parameter("query", "user_id", TEXT, "Only those that act as this user"), *_KEYS_PAGE),
            errors=(400, 401, 403),
        ),
        "post": operation(
            "Make a key that acts as a service; only this answer has its text",
            content(ref("NewApiKey")),
            status=201,
            body=body_of(NewServiceKey),
            errors=(400, 401, 403, 409, 413),
        ),
        "delete": operation(
            "Revoke all keys that act as one user",
            content(ref("AllRevoked")),
            parameters=(parameter("query", "user_id", USER_ID, "The user", required=True),),
            errors=(400, 401, 403),
        ),
    },
    "/admin/api-keys/{key_id}": {
        "parameters": [_KEY_ID],
        "delete": operation("Revoke any key", content(ref("Revoked")), errors=OWNED),
    },
}

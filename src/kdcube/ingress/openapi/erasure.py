"""Erasing all data of a user."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    COUNT,
    ID,
    OWNED,
    TEXT,
    TIME,
    USER_ID,
    Json,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)

SCHEMAS: Json = {
    "Erasure": object_of(
        {
            "erasure_id": TEXT,
            "user_id": TEXT,
            "status": {"enum": ["erasing", "erased"]},
            "requested_at": TIME,
            "done_at": nullable(TIME),
            "erased": object_of(dict.fromkeys(("conversations", "turns", "feedback", "api_keys", "logins"), COUNT)),
        }
    ),
}

_ERASURE = parameter("path", "erasure_id", ID, "As `DELETE` told it")

PATHS: Json = {
    "/me": {
        "delete": operation(
            "Erase all of the caller's data; what they send afterwards is kept",
            content(ref("Erasure")),
            status=202,
            errors=(401, 403),
        )
    },
    "/me/erasures/{erasure_id}": {
        "parameters": [_ERASURE],
        "get": operation("How far it is, and what was erased", content(ref("Erasure")), errors=OWNED),
    },
    "/admin/users": {
        "delete": operation(
            "For administrators: as below, for ids that proxies pass in no path",
            content(ref("Erasure")),
            status=202,
            parameters=(parameter("query", "user_id", USER_ID, "As the identity provider calls them", required=True),),
            errors=(400, 401, 403),
        ),
    },
    "/admin/users/{user_id}": {
        "parameters": [parameter("path", "user_id", USER_ID, "As the identity provider calls them")],
        "delete": operation(
            "For administrators: erase all of a user's data",
            content(ref("Erasure")),
            status=202,
            errors=OWNED,
        ),
    },
    "/admin/erasures/{erasure_id}": {
        "parameters": [_ERASURE],
        "get": operation(
            "For administrators: how far it is, and what was erased", content(ref("Erasure")), errors=OWNED
        ),
    },
}

"""The configuration, the audit log, turns of anybody and how the system stands: for administrators."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    COUNT,
    OBJECTS,
    OWNED,
    STATE,
    TEXT,
    Json,
    array_of,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)
from kdcube.ingress.requests import REASON_MAX_CHARS

SCHEMAS: Json = {
    "GatewayConfig": object_of(
        {
            "version": COUNT,
            "checksum": TEXT,
            "origin": {"enum": ["put", "patch", "reset", "rollback", "environment"]},
            "document": {"type": "object"},
            "resolved": {"type": "object"},
            "environment": {"type": "object"},
            "this_instance": {"type": "object"},
            "instances": nullable(OBJECTS),
        },
        {
            "author": nullable(TEXT),
            "reason": nullable(TEXT),
            "created_ms": nullable(COUNT),
        },
    ),
    "ConfigChange": object_of(
        {
            "checksum": TEXT,
            "changes": array_of(object_of({"path": TEXT, "before": {}, "after": {}})),
            "needs_restart": array_of(object_of({"path": TEXT, "component": {"enum": ["ingress", "proc"]}})),
            "warnings": OBJECTS,
        },
        {"changed": {"type": "boolean"}, "version": COUNT, "resolved": {"type": "object"}},
    ),
    "ConfigVerdict": object_of({"valid": {"type": "boolean"}}, {"errors": OBJECTS}),
    "Page": object_of({"items": OBJECTS, "next": nullable(TEXT)}),
    "TurnFacts": object_of(
        {"turn_id": TEXT, "user_id": TEXT, "state": STATE, "attempt": COUNT, "accepted_ms": COUNT},
        {"claim_id": nullable(TEXT), "worker_id": nullable(TEXT), "bundle_version": nullable(TEXT)},
    ),
    "System": object_of(
        {"at_ms": COUNT, "config": {"type": "object"}},
        {
            "instances": OBJECTS,
            "streams": {"type": "object"},
            "latency": {"type": "object"},
            "turns": {"type": "object"},
            "refused": {"type": "object"},
            "pressure": {"type": "object"},
            "queue": {},
        },
    ),
}

_CONFIG = "/admin/gateway-config"
_DOCUMENT = content({"type": "object"})
_CHANGED, _REFUSED = content(ref("ConfigChange")), (400, 401, 403, 408, 409, 412, 413)
_REASON = parameter("query", "reason", {"type": "string", "maxLength": REASON_MAX_CHARS}, "For the history")
_MATCH = parameter("header", "If-Match", TEXT, "The checksum or the number of the version that is built upon")


def _page(cursor: str, largest: int) -> tuple[Json, ...]:
    return (
        parameter("query", "cursor", {"type": "string", "pattern": cursor}, "`next` of the page before"),
        parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": largest}, "Items"),
    )


PATHS: Json = {
    _CONFIG: {
        "get": operation(
            "The configuration that is to be run, and what each process runs",
            content(ref("GatewayConfig")),
            errors=(401, 403),
        ),
        "put": operation(
            "Replace the configuration",
            _CHANGED,
            body=_DOCUMENT,
            parameters=(_MATCH, _REASON),
            errors=(*_REFUSED, 428),
        ),
        "patch": operation(
            "Change a part of it, by a JSON merge patch",
            _CHANGED,
            body=_DOCUMENT,
            parameters=(_MATCH, _REASON),
            errors=_REFUSED,
        ),
    },
    f"{_CONFIG}/validate": {
        "post": operation(
            "A dry run of a `document` or of a `patch`",
            content({"anyOf": [ref("ConfigVerdict"), ref("ConfigChange")]}),
            body=_DOCUMENT,
            errors=(400, 401, 403, 408, 413),
        )
    },
    f"{_CONFIG}/reset": {
        "post": operation("Back to what the environment says", _CHANGED, parameters=(_MATCH, _REASON), errors=_REFUSED)
    },
    f"{_CONFIG}/rollback": {
        "post": operation(
            "An earlier version as a new one",
            _CHANGED,
            body=content(object_of({"version": {"type": "integer", "minimum": 1}})),
            parameters=(_MATCH, _REASON),
            errors=(*_REFUSED, 404),
        )
    },
    f"{_CONFIG}/history": {
        "get": operation(
            "All versions, newest first, with what each changed",
            content(ref("Page")),
            parameters=_page("^(v1\\.[0-9]{1,18})?$", 100),
            errors=(400, 401, 403),
        )
    },
    "/admin/audit": {
        "get": operation(
            "Who did what, newest first",
            content(ref("Page")),
            parameters=(
                *_page("^(a1\\.[0-9]{1,18})?$", 200),
                parameter("query", "actor", TEXT, "Only of this user or part of the system"),
                parameter("query", "act", TEXT, "Only of this kind"),
            ),
            errors=(400, 401, 403),
        )
    },
    "/admin/turns/{turn_id}": {
        "parameters": [parameter("path", "turn_id", TEXT, "The internal id")],
        "get": operation("What became of any turn, without what was said", content(ref("TurnFacts")), errors=OWNED),
    },
    "/monitoring/system": {"get": operation("How the system stands", content(ref("System")), errors=(401, 403))},
}

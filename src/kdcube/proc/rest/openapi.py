"""The OpenAPI document of one bundle: its operations, described by their signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.edge import PREFIX
from kdcube.sdk import wire

Json = dict[str, Any]

_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "message": {"type": "string"},
        "field": {"type": "string"},
        "retry_after_s": {"type": "integer", "minimum": 1},
        "request_id": {"type": "string"},
    },
    "required": ["error", "message", "request_id"],
}
_MEANINGS = {
    400: "The request is not valid; `field` names what, as a path such as `data.items[0].count`",
    401: "Sign in, or ask `/profile` for a session",
    403: "Not for this caller",
    404: "There is no such operation",
    408: "The body came too slowly",
    409: "What the operation asked for contradicts what is there",
    413: "The body is too large",
    422: "The operation failed in its own words: `error` is its code",
    429: "Too many requests",
    500: "The operation failed unexpectedly",
    502: "The operation was interrupted, or its result is too large; it is not repeated",
    503: "Not now: wait for `retry_after_s`",
    504: "The operation took too long",
}
_ANONYMOUSLY: list[Json] = [{}, {"bearer": []}, {"session": []}, {"cookie": []}]
_SIGNED_IN: list[Json] = _ANONYMOUSLY[1:]


def openapi_document(
    scope: tuple[str, str],
    entry: BundleEntry,
    version: str,
    operations: Sequence[wire.Operation],
    schemas: Mapping[str, Any],
    max_body_bytes: int,
) -> Json:
    """OpenAPI 3.1. ``version`` is that of the bundle's code."""
    place = "/".join(quote(part, safe="@") for part in ("integrations", "bundles", *scope, entry.id))
    described = f"{entry.description}\n\n" if entry.description else ""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": entry.name or entry.id,
            "version": version,
            "description": f"{described}Bodies have at most {max_body_bytes} bytes.",
        },
        "servers": [{"url": PREFIX}, {"url": "/"}],
        "paths": {f"/{place}/operations/{operation.name}": {"post": _operation(operation)} for operation in operations},
        "components": {
            "schemas": dict(schemas),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "header", "name": "User-Session-ID"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "kdcube_session"},
            },
        },
    }


def _operation(operation: wire.Operation) -> Json:
    summary, _, rest = operation.description.partition("\n")
    described: Json = {
        "operationId": operation.name,
        "summary": summary or operation.name,
        "requestBody": {
            "required": operation.needs_data,
            "content": {"application/json": {"schema": _body(operation)}},
        },
        "responses": {
            "200": _answer(operation),
            **{
                str(status): {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}
                for status, meaning in _MEANINGS.items()
            },
        },
        "security": _ANONYMOUSLY if operation.public else _SIGNED_IN,
    }
    if rest.strip():
        described["description"] = rest.strip()
    return described


def _body(operation: wire.Operation) -> Json:
    body: Json = {"type": "object", "properties": {"data": operation.input} if operation.takes_data else {}}
    if operation.needs_data:
        body["required"] = ["data"]
    return body


def _answer(operation: wire.Operation) -> Json:
    if operation.streams:
        told = (
            "Server-sent events: `item` with the JSON of each, then `end`; or `error`, with the body of an error. "
            "A stream that was cut cannot be resumed."
        )
        # No ``schema``: programs disagree on whether it describes the text or each event.
        return {"description": told, "content": {"text/event-stream": {"x-item-schema": operation.output}}}
    schema: Json = {
        "type": "object",
        "properties": {operation.name: operation.output},
        "required": [operation.name],
    }
    return {"description": "The answer", "content": {"application/json": {"schema": schema}}}

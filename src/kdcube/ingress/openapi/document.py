"""The OpenAPI document of ingress, area by area. Bodies are described by the very types that decode them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kdcube.config.gateway import Limits
from kdcube.gateway.edge import PREFIX
from kdcube.gateway.openapi import probes
from kdcube.gateway.openapi.shapes import ERROR, ID, SECURITY, Json, nullable
from kdcube.gateway.turns.messages import Send
from kdcube.ingress.openapi import admin, api_keys, bundles, chat, conversations, erasure, openai
from kdcube.ingress.requests import FEEDBACK_MAX_CHARS, REACTION_MAX_CHARS, Cancel, Feedback, Patch, Status
from kdcube.ingress.routes.api_keys import NewKey, NewServiceKey
from kdcube.ingress.routes.openai_request import ChatCompletion

_BODIES = (Send, Cancel, Status, Patch, Feedback, ChatCompletion, NewKey, NewServiceKey)
_SCHEMAS: Json = {
    **erasure.SCHEMAS,
    "Error": ERROR,
    **chat.SCHEMAS,
    **api_keys.SCHEMAS,
    **conversations.SCHEMAS,
    **openai.SCHEMAS,
    **admin.SCHEMAS,
    **bundles.SCHEMAS,
    **probes.SCHEMAS,
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
        "security": SECURITY,
        "paths": {
            **chat.PATHS,
            **conversations.paths(limits),
            **erasure.PATHS,
            **openai.PATHS,
            **api_keys.PATHS,
            **admin.PATHS,
            **bundles.PATHS,
            **probes.PATHS,
        },
        "components": {
            "schemas": {**_SCHEMAS, **_bodies(limits, bundle_ids)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "header", "name": "User-Session-ID"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "kdcube_session"},
            },
        },
    }


def _bodies(limits: Limits, bundle_ids: Sequence[str]) -> Json:
    """The bodies' types, with what their routes ask beyond them."""
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    text: Json = {"type": "string", "minLength": 1, "maxLength": limits.max_text_chars}
    message = schemas["Message"]
    message["properties"]["bundle_id"] = nullable({"enum": list(bundle_ids)})
    message["anyOf"] = [
        {"required": ["text"], "properties": {"text": text}},
        {"required": ["message"], "properties": {"message": text, "text": {"enum": [None, ""]}}},
        {"required": ["payload"], "properties": {"payload": {"type": "object", "minProperties": 1}}},
    ]
    schemas["ChatCompletion"]["properties"]["model"] = {"enum": list(bundle_ids)}
    schemas["Cancel"]["oneOf"] = [
        {"required": [one], "properties": {one: ID, other: {"type": "null"}}}
        for one, other in (("turn_id", "conversation_id"), ("conversation_id", "turn_id"))
    ]
    title: Json = {"type": "string", "pattern": "^[^\\s]+( [^\\s]+)*$", "maxLength": limits.max_title_chars}
    schemas["Patch"]["properties"]["title"] = nullable(title)
    schemas["Feedback"]["properties"] = {
        "reaction": nullable({"type": "string", "minLength": 1, "maxLength": REACTION_MAX_CHARS}),
        "text": nullable({"type": "string", "maxLength": FEEDBACK_MAX_CHARS}),
    }
    return schemas

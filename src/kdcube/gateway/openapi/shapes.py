"""What OpenAPI documents are made of: shapes of JSON, parameters, operations with every answer that they may give."""

from __future__ import annotations

from typing import Any

from kdcube.gateway.rate_fields import NAMES as RATE_FIELDS
from kdcube.protocol.ids import USER_ID_MAX_CHARS

Json = dict[str, Any]


def nullable(schema: Json) -> Json:
    """``schema``, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def object_of(required: Json, optional: Json | None = None) -> Json:
    """An object with these members; others may be there too."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def array_of(items: Json) -> Json:
    """A list of ``items``."""
    return {"type": "array", "items": items}


def ref(name: str) -> Json:
    """The schema of that name among the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT: Json = {"type": "string"}
ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$"}
USER_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": USER_ID_MAX_CHARS,
    "pattern": "^[^\\x00-\\x1f\\x7f]+$",
}
TIME: Json = {"type": "string", "format": "date-time"}
COUNT: Json = {"type": "integer", "minimum": 0}
USER_TYPE: Json = {"enum": ["privileged", "paid", "registered", "anonymous", "external"]}
STATE: Json = {
    "enum": ["queued", "running", "completed", "failed", "cancelled", "interrupted", "steering", "applied"],
}
OBJECTS = array_of({"type": "object"})

ERROR = object_of(
    {"error": TEXT, "message": TEXT, "request_id": TEXT},
    {"field": TEXT, "retry_after_s": {"type": "integer", "minimum": 1}},
)

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

_RATE_DRAFT = "As draft-ietf-httpapi-ratelimit-headers-11; also on answers to messages that were accepted"

SECURITY: list[Json] = [{"bearer": []}, {"session": []}, {"cookie": []}]


def content(schema: Json, media: str = "application/json") -> Json:
    """What an answer or a body holds."""
    return {media: {"schema": schema}}


def body_of(type_: type) -> Json:
    """The content of a body that ``type_`` decodes."""
    return content(ref(type_.__name__))


def operation(
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
    """One method of a path. ``errors`` are the statuses that it may answer beside those that every operation may;
    ``public``: nobody asks who calls; ``opens``: who brings no credentials becomes a new anonymous user; ``shape``
    names the schema of its errors.
    """
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
    if opens:
        operation["security"] = [{}, *SECURITY]
    return operation


def _error(code: int, shape: str) -> Json:
    answer: Json = {"description": _MEANINGS[code], "content": content(ref(shape))}
    if code in (429, 503):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    if code == 429:
        for name in RATE_FIELDS:
            answer["headers"][name] = {"schema": {"type": "string"}, "description": _RATE_DRAFT}
    return answer


def parameter(place: str, name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    """One in the path, which is always required, in the query or in the header."""
    return {
        "name": name,
        "in": place,
        "required": required or place == "path",
        "schema": schema,
        "description": description,
    }


TURN = parameter("path", "turn_id", TEXT, "The turn: the internal id or the client's")
IDEMPOTENCY_KEY = parameter("header", "Idempotency-Key", ID, "A repeat under the same key attaches to the same turn")
EVENTS = content(TEXT, "text/event-stream")
OWNED = (401, 403, 404)
"""What may be refused where something belongs to somebody."""
OPENED = (400, 401, 403, 429)
"""What may be refused where callers without credentials become new anonymous users."""

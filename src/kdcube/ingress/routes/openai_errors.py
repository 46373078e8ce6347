"""Errors in the shape that OpenAI's clients read. Status and code are those of every other route."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from kdcube.gateway.errors import Problem
from kdcube.ingress.streams.projection.openai import Failure, error_object

UNDER = "/v1/"
"""All routes that answer so begin with it."""

_PARAMS: Mapping[str, str] = {
    "message.bundle_id": "model",
    "message.text": "messages",
    "message.payload": "kdcube.payload",
    "message.conversation_id": "kdcube.conversation_id",
}
"""By the field of a message, the parameter that it was made of."""
_NEEDS_KEY = frozenset({"outcome_unknown", "server_shutdown"})
"""The turn may run, or does: without a key to attach to it, sending again would ask twice."""
_JSON = msgspec.json.Encoder()


def openai_error(problem: Problem, scope: Scope) -> Response:
    """``{"error": {"message", "type", "param", "code"}}``. ``x-should-retry`` keeps clients from repeats in vain."""
    headers: dict[str, str] = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.allow is not None:
        headers["Allow"] = problem.allow
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    in_vain = problem.status == 409 and problem.retry_after_s is None
    if in_vain or (problem.error in _NEEDS_KEY and "idempotency-key" not in Headers(scope=scope)):
        headers["X-Should-Retry"] = "false"
    param = _PARAMS.get(problem.field, problem.field) if problem.field else None
    return _response(error_object(problem.status, problem.error, problem.message, param), problem.status, headers)


def failure_response(failure: Failure) -> Response:
    """Of a turn that ran and has no answer. A client that sends again by itself would run it again."""
    return _response(failure.error(), failure.status, {"X-Should-Retry": "false"})


def _response(body: object, status: int, headers: dict[str, str]) -> Response:
    return Response(_JSON.encode(body), status, headers, "application/json")

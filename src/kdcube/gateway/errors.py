"""What can go wrong for a client, and the one table from errors to HTTP.

Every error that leaves ingress has the body ``{"error", "message", "field"?, "retry_after_s"?, "request_id"}``.
``error`` is a word that programs branch on, ``message`` is for people; neither holds a secret or an internal detail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kdcube.protocol.errors import EpochMismatch, InvalidInput, KDCubeError, StoreUnavailable
from kdcube.redis.rates import Left

STORE_RETRY_S = 2.0
"""What a client is told to wait when a store is away: about the time of a restart."""

_JSON = msgspec.json.Encoder()


class RequestError(KDCubeError):
    """The request cannot be served."""

    word = "request_error"

    def __init__(self, message: str | None = None, *, error: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.error = error or self.word
        self.field = field
        self.retry_after_s: float | None = None
        self.left: Left = ()
        self.errors: Sequence[Mapping[str, object]] | None = None
        """Everything that is wrong, where that is more than one thing."""


class BadRequest(RequestError):
    """The request cannot be understood."""

    word = "bad_request"


class Unauthorised(RequestError):
    """Sign in: there is no valid token or session."""

    word = "unauthorized"


class Forbidden(RequestError):
    """The caller may not do that."""

    word = "forbidden"


class NotFound(RequestError):
    """There is no such thing, or it is not the caller's."""

    word = "not_found"


class Conflict(RequestError):
    """The request contradicts what is there."""

    word = "conflict"


class PreconditionFailed(RequestError):
    """What the request builds upon has changed meanwhile."""

    word = "precondition_failed"


class PreconditionRequired(RequestError):
    """The request must say what it builds upon."""

    word = "precondition_required"


class TooLarge(RequestError):
    """The request's body is too large."""

    word = "too_large"


class TooSlow(RequestError):
    """The request's body comes too slowly."""

    word = "too_slow"


class Unprocessable(RequestError):
    """The request is understood, and what it asks for cannot be done."""

    word = "unprocessable"


class Failed(RequestError):
    """It failed here."""

    word = "failed"


class BadGateway(RequestError):
    """Who was to do it did not."""

    word = "bad_gateway"


class TimedOut(RequestError):
    """It was not done in time."""

    word = "timeout"


class RateLimited(RequestError):
    """Too many requests."""

    word = "rate_limited"

    def __init__(self, message: str | None = None, *, retry_after_s: float, error: str | None = None) -> None:
        super().__init__(message, error=error)
        self.retry_after_s = retry_after_s


class Unavailable(RequestError):
    """The service cannot take this now."""

    word = "unavailable"

    def __init__(
        self, message: str | None = None, *, retry_after_s: float = STORE_RETRY_S, error: str | None = None
    ) -> None:
        super().__init__(message, error=error)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as HTTP shows it. ``retry_after_s`` is whole seconds, rounded up; ``allow`` names a route's methods."""

    status: int
    error: str
    message: str
    field: str | None = None
    retry_after_s: int | None = None
    allow: str | None = None
    errors: Sequence[Mapping[str, object]] | None = None

    def response(self, request_id: str) -> Response:
        body: dict[str, object] = {"error": self.error, "message": self.message}
        if self.field is not None:
            body["field"] = self.field
        headers: dict[str, str] = {}
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
            headers["Retry-After"] = str(self.retry_after_s)
        if self.errors is not None:
            body["errors"] = self.errors
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body["request_id"] = request_id
        return Response(_JSON.encode(body), self.status, headers, "application/json")


_STATUS: dict[type[RequestError], int] = {
    BadRequest: 400,
    Unauthorised: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PreconditionFailed: 412,
    PreconditionRequired: 428,
    TooLarge: 413,
    TooSlow: 408,
    Unprocessable: 422,
    RateLimited: 429,
    Failed: 500,
    BadGateway: 502,
    Unavailable: 503,
    TimedOut: 504,
}

_DEPENDENCIES = {
    "postgres": "The database",
    "valkey": "The queue",
    "identity": "The identity provider",
    "storage": "The file storage",
}

_ROUTING = {404: ("not_found", "There is no such route."), 405: ("method_not_allowed", "The route has no such method.")}


def problem(error: Exception) -> Problem | None:
    """What a client is told of ``error``; None for one that nobody expected."""
    match error:
        case RequestError():
            return Problem(
                _STATUS[type(error)],
                error.error,
                str(error),
                error.field,
                _whole_seconds(error.retry_after_s),
                errors=error.errors,
            )
        case InvalidInput():
            return Problem(400, "invalid_input", error.message, error.field)
        case EpochMismatch():
            return Problem(
                503, "rebuilding", "The working state is being rebuilt; try again.", None, math.ceil(STORE_RETRY_S)
            )
        case StoreUnavailable():
            what = _DEPENDENCIES.get(error.store, error.store)
            return Problem(
                503, "store_unavailable", f"{what} cannot be reached; try again.", None, math.ceil(STORE_RETRY_S)
            )
        case HTTPException() if error.status_code in _ROUTING:
            return Problem(error.status_code, *_ROUTING[error.status_code], allow=(error.headers or {}).get("Allow"))
        case HTTPException():
            return Problem(error.status_code, "bad_request", error.detail)
        case _:
            return None


UNEXPECTED = Problem(500, "internal", "Something went wrong here; the request id leads to it in the logs.")


def _whole_seconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, math.ceil(seconds))

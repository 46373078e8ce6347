"""Errors as clients see them."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from kdcube.gateway import errors
from kdcube.gateway.errors import Conflict, RateLimited, Unavailable, problem
from kdcube.protocol.errors import EpochMismatch, InvalidInput, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (errors.BadRequest(), 400, "bad_request"),
        (InvalidInput("q", "too long"), 400, "invalid_input"),
        (errors.Unauthorised(), 401, "unauthorized"),
        (errors.Forbidden(), 403, "forbidden"),
        (errors.NotFound(), 404, "not_found"),
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405), 405, "method_not_allowed"),
        (Conflict(error="conversation_busy"), 409, "conversation_busy"),
        (errors.TooLarge(), 413, "too_large"),
        (RateLimited(retry_after_s=0.2), 429, "rate_limited"),
        (Unavailable(error="queue_full"), 503, "queue_full"),
        (StoreUnavailable("postgres", "password=hunter2"), 503, "store_unavailable"),
        (EpochMismatch(), 503, "rebuilding"),
    ],
)
def test_each_error_has_one_status(error: Exception, status: int, word: str) -> None:
    told = problem(error)
    assert told is not None and (told.status, told.error) == (status, word)
    response = told.response("r1")
    body = json.loads(bytes(response.body))
    assert body["request_id"] == "r1" and body["message"] and "hunter2" not in body["message"]
    assert (status in (429, 503)) == ("retry-after" in response.headers)
    assert (status == 401) == ("www-authenticate" in response.headers)


def test_what_nobody_expected_is_no_problem_of_the_clients() -> None:
    assert problem(RuntimeError("x")) is None
    assert errors.UNEXPECTED.status == 500


def test_seconds_are_rounded_up_and_never_none() -> None:
    told = problem(RateLimited(retry_after_s=1.2))
    assert told is not None and told.retry_after_s == 2
    assert told.response("r").headers["retry-after"] == "2"
    told = problem(RateLimited(retry_after_s=0))
    assert told is not None and told.retry_after_s == 1


def test_the_field_is_named() -> None:
    told = problem(InvalidInput("message.text", "too long"))
    assert told is not None
    assert json.loads(bytes(told.response("r").body)) == {
        "error": "invalid_input", "message": "too long", "field": "message.text", "request_id": "r",
    }  # fmt: skip

"""What the routes share by which administrators change something: bodies, conditions, refusals, the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.documents import Finding, UnreadableDocument, read_json
from kdcube.gateway.errors import BadRequest, PreconditionFailed, PreconditionRequired, RequestError
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.reading import read_body
from kdcube.ingress.requests import REASON_MAX_CHARS
from kdcube.postgres.audit import Actor, Audit
from kdcube.protocol.errors import InvalidInput, KDCubeError

Json = dict[str, Any]
Instances = Callable[[], Awaitable[list[Json] | None]]
"""What each process says of itself; None when that cannot be told."""


async def attempt(
    callers: Callers,
    audit: Audit,
    request: Request,
    act: str,
    subject: str,
    work: Callable[[Actor, str | None], Awaitable[Response]],
) -> Response:
    """``work`` on behalf of an administrator and for a reason; what was refused is in the audit log as well."""
    caller = await callers.administrator(request)
    actor = callers.actor(request, caller)
    try:
        return await work(actor, _reason(request))
    except (RequestError, InvalidInput) as error:
        told = {"error": getattr(error, "error", "invalid_input"), "fields": _fields(error)}
        await audit.record(actor, act, subject, told, outcome="refused")
        raise


def _reason(request: Request) -> str | None:
    reason = request.query_params.get("reason") or None
    if reason is not None and len(reason) > REASON_MAX_CHARS:
        raise InvalidInput("reason", f"reason must have at most {REASON_MAX_CHARS} characters")
    return reason


async def read_object(request: Request, max_bytes: int, *, optional: bool = False) -> Json:
    """The body, a JSON object; an empty one for no body, where that is ``optional``.

    Raises InvalidInput, RequestError.
    """
    body = await read_body(request, max_bytes)
    if optional and not body:
        return {}
    try:
        given = read_json(body.decode(), max_bytes=max_bytes)
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", error="invalid_utf8", field="body") from None
    except UnreadableDocument as error:
        raise BadRequest(f"The body cannot be read: {error}.", error="malformed_json", field="body") from None
    if not isinstance(given, dict):
        raise InvalidInput("body", "give an object")
    return cast("Json", given)


def check_match(request: Request, matches: Callable[[str], bool], *, required: str | None, now: str) -> None:
    """If-Match: ``matches`` tells whether a tag means what is there, ``now`` what is. ``required``: what to do without
    the header, where it must be given. Raises PreconditionRequired, PreconditionFailed.
    """
    header = request.headers.get("if-match")
    if header is None:
        if required is not None:
            raise PreconditionRequired(required)
        return
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    if not any(matches(tag) for tag in tags):
        raise PreconditionFailed(now)


def invalid(findings: Sequence[Finding], message: str, *, error: str) -> RequestError:
    """A refusal that names everything that is wrong."""
    refused = BadRequest(message, error=error, field=findings[0].path or "body")
    refused.errors = told_findings(findings)
    return refused


def told_findings(findings: Sequence[Finding]) -> list[Json]:
    told: list[Json] = []
    for finding in findings:
        one: Json = {"path": finding.path, "message": finding.message}
        told.append({**one, "allowed": finding.allowed} if finding.allowed else one)
    return told


def tagged(response: Response, tag: object) -> Response:
    response.headers["ETag"] = f'"{tag}"'
    return response


def _fields(error: KDCubeError) -> list[object]:
    many = getattr(error, "errors", None)
    return [one["path"] for one in many] if many else [getattr(error, "field", None)]

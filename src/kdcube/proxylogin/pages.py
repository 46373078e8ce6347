"""What a browser shows when a sign-in fails. Texts are ours; what the provider says is shown only as a known word."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from kdcube.gateway.errors import Problem
from kdcube.gateway.exchange import request_id_of

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Signing in failed</title></head>
<body><main><h1>Signing in failed</h1><p role="alert">{message}</p>
<p><a href="/auth/login">Sign in again</a></p><p><small>Request {request_id}</small></p></main></body></html>
"""


def failure(problem: Problem, scope: Scope) -> Response:
    """``problem`` as a page, for whoever wants one."""
    request = Request(scope)
    if "text/html" not in request.headers.get("accept", ""):
        return problem.response(request_id_of(request))
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    page = _PAGE.format(message=escape(problem.message), request_id=escape(request_id_of(request)))
    return HTMLResponse(page, problem.status, headers)

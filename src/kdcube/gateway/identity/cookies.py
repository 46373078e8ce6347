"""Cookies that prove who somebody is: which name counts, and no choice between two of one name."""

from __future__ import annotations

from starlette.requests import Request

from kdcube.gateway.errors import Unauthorised

_SESSION = "kdcube_session"


def session_cookie(request: Request) -> str:
    """The name of an anonymous session's cookie. Under ``__Host-`` no other host, not even a sibling, can plant one;
    browsers take it over https only.
    """
    return f"__Host-{_SESSION}" if is_https(request) else _SESSION


def is_https(request: Request) -> bool:
    """Whether the client came by https. Whoever lies about it only keeps cookies from himself."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"


def only_cookie(request: Request, name: str) -> str | None:
    """A cookie's value; None when it is not there, or empty.

    Raises Unauthorised when it is there more than once with different values: another host of the domain may have
    added one, and which of them is the user's own nobody can tell.
    """
    given = {
        value.strip()
        for header in request.headers.getlist("cookie")
        for part in header.split(";")
        for written, _, value in (part.partition("="),)
        if written.strip() == name
    }
    if len(given) > 1:
        raise Unauthorised(
            f"The cookie {name} was sent more than once, with different values: remove the site's cookies.",
            error="ambiguous_cookie",
        )
    return request.cookies.get(name) or None

"""What lists for administrators are asked for."""

from __future__ import annotations

from starlette.requests import Request

from kdcube.protocol.errors import InvalidInput


def page_of(request: Request, largest: int, usual: int) -> tuple[str | None, int]:
    """The cursor and the limit of a request. Raises InvalidInput."""
    text = request.query_params.get("limit")
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= largest):
        raise InvalidInput("limit", f"limit must be 1 to {largest}")
    return request.query_params.get("cursor") or None, usual if text is None else int(text)

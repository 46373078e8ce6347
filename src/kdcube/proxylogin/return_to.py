"""Where a user comes back to after signing in: a path of this site, whatever the spelling."""

from __future__ import annotations

import re
from urllib.parse import unquote

from kdcube.protocol.errors import InvalidInput

MAX_CHARS = 1024

_URL_CHARS = re.compile(r"[!-\[\]-~]*")  # printable ASCII without space and backslash
_DECODINGS = 4
_PATH_END = re.compile(r"[?#]")


def checked_return_to(given: str | None) -> str:
    """``given``, such as ``/c/123?tab=files#end``; ``/`` without one. Raises InvalidInput.

    The path is also looked at as it is after decoding, several times: something on the way may do that.
    """
    if not given:
        return "/"
    if len(given) > MAX_CHARS:
        raise InvalidInput("return_to", f"return_to must have at most {MAX_CHARS} characters")
    path = _PATH_END.split(given, maxsplit=1)[0]
    if not _URL_CHARS.fullmatch(given) or not _leads_here(path):
        raise InvalidInput("return_to", "return_to must be a path of this site, such as /c/123; leave it out for /")
    return given


def _leads_here(path: str) -> bool:
    for _ in range(_DECODINGS):
        if not path.startswith("/") or path.startswith("//") or "\\" in path or not path.isprintable():
            return False
        if path == "/auth" or path.lower().startswith("/auth/"):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False

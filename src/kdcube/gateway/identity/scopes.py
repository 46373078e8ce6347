"""What an API key may be used for: one table, by route. A route that is not in it takes no key."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias


class Scope(StrEnum):
    """What a key is for."""

    CHAT = "chat"
    """To send messages and follow them, to call operations, and to change what is the key's own."""
    READ = "read"
    """To read conversations, and to follow what others of the same identity sent."""
    ADMIN = "admin"
    """To administer; for keys of administrators."""


Scopes: TypeAlias = frozenset[Scope]

_ANY: Scopes = frozenset(Scope)
_CHAT: Scopes = frozenset({Scope.CHAT})
_READ: Scopes = frozenset({Scope.READ})
_FOLLOW: Scopes = frozenset({Scope.CHAT, Scope.READ})
_ADMIN: Scopes = frozenset({Scope.ADMIN})
NEVER: Scopes = frozenset()
"""For people only. A key makes no keys, as one that leaked would outlive its revocation, and erases nobody."""

OPERATION = "/integrations/bundles/{tenant}/{project}/{bundle_id}/operations/{operation}"
DOCUMENT = "/integrations/bundles/{tenant}/{project}/{bundle_id}/openapi.json"
_ONE = "/conversations/{conversation_id}"
_TURN = _ONE + "/turns/{turn_id}"

ROUTES: Mapping[tuple[str, str], Scopes] = {
    ("POST", "/sse/chat"): _CHAT,
    ("GET", "/sse/stream"): _FOLLOW,
    ("GET", "/turns/{turn_id}/stream"): _FOLLOW,
    ("POST", "/sse/cancel"): _CHAT,
    ("POST", "/sse/conv_status.get"): _FOLLOW,
    ("GET", "/profile"): _ANY,
    ("GET", "/conversations"): _READ,
    ("GET", _ONE): _READ,
    ("PATCH", _ONE): _CHAT,
    ("DELETE", _ONE): _CHAT,
    ("POST", _ONE + "/restore"): _CHAT,
    ("GET", _ONE + "/export"): _READ,
    ("PUT", _TURN + "/feedback"): _CHAT,
    ("POST", _TURN + "/retry"): _CHAT,
    ("GET", "/v1/models"): _FOLLOW,
    ("GET", "/v1/models/{model}"): _FOLLOW,
    ("POST", "/v1/chat/completions"): _CHAT,
    ("POST", OPERATION): _CHAT,
    ("GET", DOCUMENT): _FOLLOW,
    ("POST", "/api-keys"): NEVER,
    ("GET", "/api-keys"): NEVER,
    ("DELETE", "/api-keys/{key_id}"): NEVER,
    ("POST", "/admin/api-keys"): NEVER,
    ("DELETE", "/me"): NEVER,
    ("GET", "/me/erasures/{erasure_id}"): NEVER,
    ("DELETE", "/admin/users"): NEVER,
    ("DELETE", "/admin/users/{user_id}"): NEVER,
}
UNDER: Mapping[str, Scopes] = {"/admin/": _ADMIN, "/monitoring/": _ADMIN}
"""Of all other routes that begin so. The handlers ask for an administrator themselves."""
PUBLIC = frozenset({"/bundles", "/health", "/ready", "/openapi.json", "/webhooks/bundles/{bundle_id}"})
"""Where nobody asks who calls; a webhook proves itself by a secret of its own."""


def scopes_for(method: str, path: str) -> Scopes:
    """Which scopes allow a route, by its method and its pattern; one of them is enough."""
    path = path.replace(":path}", "}")  # how much of a path a parameter takes does not matter here
    found = ROUTES.get(("GET" if method == "HEAD" else method, path))
    if found is not None:
        return found
    return next((scopes for beginning, scopes in UNDER.items() if path.startswith(beginning)), NEVER)

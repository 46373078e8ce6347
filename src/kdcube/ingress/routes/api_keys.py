"""API keys: of the caller, and for administrators of everybody. Only the answer to its making holds a key's text."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Conflict, Forbidden, NotFound
from kdcube.gateway.identity.api_keys import ApiKeys
from kdcube.gateway.identity.authenticator import SERVICE, user_type_of
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.identity.key_text import ID_CHARS, new_key
from kdcube.gateway.identity.scopes import Scope
from kdcube.gateway.reading import read_json
from kdcube.gateway.turns.messages import RANK
from kdcube.ingress.requests import only_user_id
from kdcube.ingress.views import iso
from kdcube.postgres.api_keys import MAX_LIVE, MAX_PAGE, StoredKey, StoredKeys, TooMany
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import UserType
from kdcube.redis.revocations import Revocations

BODY_BYTES = 16 * 1024
PAGE_ITEMS = 50
NAME_MAX_CHARS = 100
ROLES_MAX = 50
DAYS_MAX = 366
_DAY_MS = 86_400_000
_KEY_ID = re.compile(rf"[0-9A-Za-z]{{{ID_CHARS}}}")
_ADMIN_ROLES = {
    "kdcube:role:super-admin": frozenset({"kdcube:role:admin", "kdcube:role:paid"}),
    "kdcube:role:admin": frozenset({"kdcube:role:paid"}),
}
"""What an administrator may give beside his own roles."""

ScopeName = Literal["chat", "read", "admin"]
Days = Annotated[float, msgspec.Meta(ge=1, le=DAYS_MAX)]
Name = Annotated[
    str,
    msgspec.Meta(max_length=NAME_MAX_CHARS, pattern="^[^\\x00-\\x20\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$"),
]
Role = Annotated[str, msgspec.Meta(pattern="^[!-~]{1,128}$")]


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api-keys``: a key that acts as the caller."""

    name: Name
    scopes: Annotated[tuple[ScopeName, ...], msgspec.Meta(min_length=1, max_length=3)] = ("chat", "read")
    expires_in_days: Days = 90


class NewServiceKey(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /admin/api-keys``: a key that acts as the service ``service:<service>``, with conversations of its own."""

    name: Name
    service: Annotated[str, msgspec.Meta(max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    user_type: Literal["registered", "paid", "privileged", "external"] = "registered"
    roles: Annotated[tuple[Role, ...], msgspec.Meta(max_length=ROLES_MAX)] = ()
    scopes: Annotated[tuple[ScopeName, ...], msgspec.Meta(min_length=1, max_length=3)] = ("chat", "read")
    expires_in_days: Days = 90


_NEW_KEY = msgspec.json.Decoder(NewKey)
_NEW_SERVICE_KEY = msgspec.json.Decoder(NewServiceKey)


@dataclass(frozen=True, slots=True)
class _ActsAs:
    user_id: str
    user_type: UserType
    roles: tuple[str, ...]
    username: str | None
    email: str | None


class ApiKeyRoutes:
    """``/api-keys`` and ``/admin/api-keys``."""

    def __init__(
        self,
        callers: Callers,
        stored: StoredKeys,
        keys: ApiKeys,
        revocations: Revocations,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._callers = callers
        self._stored = stored
        self._keys = keys
        self._revocations = revocations
        self._clock = clock

    async def create(self, request: Request) -> Response:
        caller = await self._person(request)
        body = await read_json(request, _NEW_KEY, BODY_BYTES)
        acts_as = _ActsAs(caller.user_id, caller.user_type, caller.roles, caller.username, caller.email)
        return await self._create(request, caller, acts_as, body)

    async def create_for_service(self, request: Request) -> Response:
        caller = await self._callers.administrator(request)
        body = await read_json(request, _NEW_SERVICE_KEY, BODY_BYTES)
        if body.service.endswith("\n") or any(role.endswith("\n") for role in body.roles):  # which $ lets pass
            raise InvalidInput("service", "service and roles must have no line breaks")
        user_type = UserType(body.user_type)
        _check_roles(caller, user_type, body.roles)
        acts_as = _ActsAs(SERVICE + body.service, user_type, body.roles, body.service, None)
        return await self._create(request, caller, acts_as, body)

    async def _create(
        self, request: Request, caller: Caller, acts_as: _ActsAs, body: NewKey | NewServiceKey
    ) -> Response:
        scopes = {Scope(scope) for scope in body.scopes}
        if Scope.ADMIN in scopes and acts_as.user_type is not UserType.PRIVILEGED:
            raise Forbidden("The scope admin is for keys of administrators.", error="scope_not_allowed", field="scopes")
        text, parts = new_key()
        now_ms = self._now_ms()
        key = StoredKey(
            key_id=parts.key_id,
            secret_hash=parts.secret_hash,
            name=" ".join(body.name.split()),
            user_id=acts_as.user_id,
            username=acts_as.username,
            email=acts_as.email,
            user_type=acts_as.user_type,
            roles=acts_as.roles,
            scopes=tuple(sorted(scopes)),
            created_by=caller.user_id,
            created_ms=now_ms,
            expires_ms=now_ms + int(body.expires_in_days * _DAY_MS),
        )
        if isinstance(await self._stored.add(key, self._callers.actor(request, caller)), TooMany):
            raise Conflict(f"{acts_as.user_id} has {MAX_LIVE} keys already: revoke one first.", error="too_many_keys")
        return json_response({"key": text, "api_key": _view(key)}, 201)

    async def list(self, request: Request) -> Response:
        caller = await self._person(request)
        return await self._list(request, caller.user_id)

    async def list_all(self, request: Request) -> Response:
        await self._callers.administrator(request)
        return await self._list(request, request.query_params.get("user_id") or None)

    async def _list(self, request: Request, user_id: str | None) -> Response:
        query = request.query_params
        page = await self._stored.list(
            user_id, cursor=query.get("cursor") or None, limit=_limit(query.get("limit", str(PAGE_ITEMS)))
        )
        return json_response({"items": [_view(key) for key in page.items], "next": page.next})

    async def revoke(self, request: Request) -> Response:
        caller = await self._person(request)
        return await self._revoke(request, caller, caller.user_id)

    async def revoke_any(self, request: Request) -> Response:
        return await self._revoke(request, await self._callers.administrator(request), None)

    async def revoke_all_of(self, request: Request) -> Response:
        """All keys of one user at once, such as of one who has lost a role or left."""
        caller = await self._callers.administrator(request)
        user_id = only_user_id(request)
        ended = await self._stored.revoke_all(user_id, self._callers.actor(request, caller), self._now_ms())
        for key_id in ended:
            await self._told(key_id)
        return json_response({"status": "revoked", "ids": ended})

    async def _revoke(self, request: Request, caller: Caller, of_user: str | None) -> Response:
        key_id: str = request.path_params["key_id"]
        actor, now_ms = self._callers.actor(request, caller), self._now_ms()
        if not _KEY_ID.fullmatch(key_id) or not await self._stored.revoke(key_id, actor, now_ms, of_user=of_user):
            raise NotFound("There is no such key.", error="api_key_not_found")
        await self._told(key_id)
        return json_response({"status": "revoked", "id": key_id})

    async def _told(self, key_id: str) -> None:
        """Every process that can hear it: nobody believes the key any more."""
        self._keys.forget(key_id)
        await self._revocations.announce(key_id)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    async def _person(self, request: Request) -> Caller:
        caller = await self._callers.identify(request)
        if caller.anonymous:
            raise Forbidden("Sign in: an anonymous user has no API keys.", error="sign_in")
        return caller


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidInput("limit", f"limit must be 1 to {MAX_PAGE}")
    return int(text)


def _check_roles(caller: Caller, user_type: UserType, roles: Sequence[str]) -> None:
    """Nobody gives away what he has not. Raises InvalidInput, Forbidden."""
    if RANK[user_type_of(roles)] > max(RANK[user_type], RANK[UserType.REGISTERED]):
        raise Forbidden(
            f"These roles are not those of a {user_type} user: give a higher user_type.",
            error="role_not_allowed",
            field="roles",
        )
    own: Collection[str] = {*caller.roles, *(role for held in caller.roles for role in _ADMIN_ROLES.get(held, ()))}
    if foreign := [role for role in roles if role not in own]:
        raise Forbidden(
            f"Only your own roles can be given, and {foreign[0]} is none.", error="role_not_allowed", field="roles"
        )


def _view(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "user_id": key.user_id,
        "user_type": key.user_type,
        "roles": key.roles,
        "scopes": key.scopes,
        "created_by": key.created_by,
        "created_at": iso(key.created_ms),
        "expires_at": iso(key.expires_ms),
        "revoked_at": None if key.revoked_ms is None else iso(key.revoked_ms),
        "last_used_at": None if key.last_used_ms is None else iso(key.last_used_ms),
    }

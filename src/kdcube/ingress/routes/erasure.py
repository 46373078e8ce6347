"""``DELETE /me``, ``DELETE /admin/users/{user_id}`` and ``DELETE /admin/users?user_id=``: all data of a user, and the
receipts of that.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.errors import NotFound
from kdcube.gateway.identity.callers import Callers
from kdcube.ingress.erasure import Erasures
from kdcube.ingress.requests import only_user_id, path_id
from kdcube.ingress.views import iso
from kdcube.postgres.erasing import Erasure
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_user_id


class ErasureRoutes:
    """For users about themselves, for administrators about everybody."""

    def __init__(self, callers: Callers, erasures: Erasures) -> None:
        self._callers = callers
        self._erasures = erasures

    async def erase_me(self, request: Request) -> Response:
        caller = await self._callers.identify(request)
        return _accepted(await self._erasures.request(caller.user_id, self._callers.actor(request, caller)))

    async def my_erasure(self, request: Request) -> Response:
        caller = await self._callers.identify(request)
        return _told(await self._erasures.get(path_id(request, "erasure_id"), caller.user_id))

    async def erase_user(self, request: Request) -> Response:
        caller = await self._callers.administrator(request)
        try:
            user_id = check_user_id("user_id", request.path_params["user_id"])
        except InvalidInput:
            raise NotFound from None
        return _accepted(await self._erasures.request(user_id, self._callers.actor(request, caller)))

    async def erase_named(self, request: Request) -> Response:
        """As ``erase_user``, by the query: for ids that proxies pass in no path."""
        caller = await self._callers.administrator(request)
        user_id = only_user_id(request)
        return _accepted(await self._erasures.request(user_id, self._callers.actor(request, caller)))

    async def erasure(self, request: Request) -> Response:
        await self._callers.administrator(request)
        return _told(await self._erasures.get(path_id(request, "erasure_id")))


def _accepted(erasure: Erasure) -> Response:
    return json_response(_receipt(erasure), 202)


def _told(erasure: Erasure | None) -> Response:
    if erasure is None:
        raise NotFound("There is no such erasure.", error="erasure_not_found")
    return json_response(_receipt(erasure))


def _receipt(erasure: Erasure) -> dict[str, object]:
    return {
        "erasure_id": erasure.erasure_id,
        "user_id": erasure.user_id,
        "status": "erasing" if erasure.done_ms is None else "erased",
        "requested_at": iso(erasure.requested_ms),
        "done_at": None if erasure.done_ms is None else iso(erasure.done_ms),
        "erased": {
            "conversations": erasure.conversations,
            "turns": erasure.turns,
            "feedback": erasure.feedback,
            "api_keys": erasure.api_keys,
            "logins": erasure.logins,
        },
    }

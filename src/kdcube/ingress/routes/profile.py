"""Who the caller is and what they may do; which bundles there are."""

from __future__ import annotations

import math
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.gateway.answers import json_response
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.caller import Caller
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.turns.messages import may_use
from kdcube.postgres.conversations import Conversations
from kdcube.protocol.errors import StoreUnavailable

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class ProfileRoutes:
    """``/profile`` and ``/bundles``."""

    def __init__(
        self,
        callers: Callers,
        conversations: Conversations,
        live: LiveGateway,
        limiter: Limiter,
        bundles: LiveBundles,
    ) -> None:
        self._callers = callers
        self._conversations = conversations
        self._live = live
        self._limiter = limiter
        self._bundles = bundles

    async def profile(self, request: Request) -> Response:
        caller = await self._callers.identify(request, opens=True, replaces=True)
        moved = await self._take_over(caller)
        gateway, registry = self._live.current, self._bundles.registry
        rate, limits = gateway.rate_limits.ingress.of(caller.user_type), gateway.limits.ingress
        body: dict[str, Any] = {
            "user_type": caller.user_type,
            "user_id": caller.user_id,
            "username": caller.username,
            "email": caller.email,
            "roles": caller.roles,
            "session_id": caller.session_id,
            "limits": {
                "burst": rate.burst,
                "burst_window_s": rate.burst_window,
                "hourly": rate.hourly,
                "max_text_chars": limits.max_text_chars,
                "max_payload_bytes": limits.max_payload_bytes,
                "max_body_bytes": limits.max_body_bytes,
            },
            "limits_left": await self._left(caller),
            "bundles": [_bundle(entry, registry) for entry in registry.bundles.values() if may_use(caller, entry)],
            "default_bundle_id": registry.default_bundle_id,
        }
        if moved is not None:
            body["conversations_taken_over"] = moved
        return json_response(body)

    async def bundles(self, request: Request) -> Response:
        registry = self._bundles.registry
        items = [_bundle(entry, registry) for entry in registry.bundles.values()]
        return json_response({"items": items, "default_bundle_id": registry.default_bundle_id})

    async def _left(self, caller: Caller) -> dict[str, Any] | None:
        """None while it cannot be told."""
        try:
            left = await self._limiter.left(caller)
        except StoreUnavailable as error:
            logger.warning("profile.left_not_known", reason=str(error))
            return None
        return {window.name: {"left": window.left, "reset_s": math.ceil(window.reset_s)} for window in left}

    async def _take_over(self, caller: Caller) -> int | None:
        """At sign-in the idle conversations of the anonymous identity become the user's: both are proven (rule 28)."""
        if caller.anonymous_user_id is None:
            return None
        try:
            return len(await self._conversations.reown(caller.anonymous_user_id, caller.user_id))
        except StoreUnavailable as error:
            logger.warning("profile.not_taken_over", reason=str(error))
            return 0  # the next /profile does it


def _bundle(entry: BundleEntry, registry: BundleRegistry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name or entry.id,
        "description": entry.description,
        "default": entry.id == registry.default_bundle_id,
        "required_user_type": entry.required_user_type,
    }

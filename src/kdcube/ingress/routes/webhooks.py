"""``/webhooks/bundles/{bundle_id}``: servers of git say that something was pushed."""

from __future__ import annotations

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.answers import json_response
from kdcube.gateway.bundles.entries import InvalidEntry, entry_of
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.bundles.pushes import OtherEvent, cause_of, concerns, event_of, is_genuine, is_presented
from kdcube.gateway.bundles.wanting import Wanting
from kdcube.gateway.errors import BadRequest, Forbidden, NotFound, Unavailable
from kdcube.gateway.exchange import request_id_of
from kdcube.gateway.identity.addresses import Addresses
from kdcube.gateway.reading import read_body
from kdcube.postgres.audit import Actor
from kdcube.postgres.release_records import Crowded, Release, Repeated
from kdcube.postgres.releases import Releases
from kdcube.secrets.secrets import Secrets
from kdcube.secrets.vault import SecretUnreadable

BODY_MAX_BYTES = 1024 * 1024

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class WebhookRoutes:
    """For servers of git, which prove themselves by the secret of the bundle. They may say that there is news of what
    is registered, and nothing else: what is fetched then is what the ref is at that time.
    """

    def __init__(
        self, live: LiveBundles, releases: Releases, wanting: Wanting, secrets: Secrets, addresses: Addresses
    ) -> None:
        self._live = live
        self._releases = releases
        self._wanting = wanting
        self._secrets = secrets
        self._addresses = addresses

    async def push(self, request: Request) -> Response:
        bundle_id: str = request.path_params["bundle_id"]
        entry = await self._entry(bundle_id)
        if entry is None or entry.webhook_secret is None:
            raise NotFound("There is no webhook.", error="webhook_not_found")
        if not is_presented(request.headers):
            raise _not_genuine()
        try:
            secret = await self._secrets.get(entry.webhook_secret)
        except SecretUnreadable as error:
            logger.error("webhook.secret_not_read", bundle=bundle_id, secret=entry.webhook_secret, reason=error.reason)
            raise Unavailable("The webhook's secret cannot be read.", error="webhook_not_ready") from error
        body = await read_body(request, BODY_MAX_BYTES)
        if not is_genuine(request.headers, body, secret):
            logger.warning("webhook.not_genuine", bundle=bundle_id, address=str(self._addresses.of(request)))
            raise _not_genuine()
        try:
            event = event_of(request.headers, body)
        except (msgspec.DecodeError, RecursionError):
            raise BadRequest(
                "The body is no push: have it sent as application/json.", error="malformed_push", field="body"
            ) from None
        if isinstance(event, OtherEvent):
            return _ignored("it is no push")
        if not concerns(event, entry):
            return _ignored("what is served does not follow that ref")
        standing = await self._releases.standing(bundle_id)  # this process may be behind
        if standing is not None and standing.served is not None and standing.served.revision == event.commit:
            return _ignored("that commit is served")
        return await self._wanted(request, bundle_id, cause_of(request.headers, body), event.commit)

    async def _wanted(self, request: Request, bundle_id: str, cause: str | None, commit: str | None) -> Response:
        actor = Actor("webhook", str(self._addresses.of(request)), request_id_of(request))
        reason = None if commit is None else f"push of {commit[:64]}"
        match await self._wanting.reload(bundle_id, origin="webhook", actor=actor, reason=reason, cause=cause):
            case Release() as wanted:
                return json_response({"status": "wanted", "release": wanted.number}, 202)
            case Repeated(release):
                return json_response({"status": "known", "release": release.number})
            case Crowded():
                return _ignored("others that look for the same news wait")
            case None:
                raise NotFound("There is no webhook.", error="webhook_not_found")
            case _:
                raise Unavailable("The registry is being changed; try again.", error="superseded")

    async def _entry(self, bundle_id: str) -> BundleEntry | None:
        registered = self._live.current
        release = registered.releases.get(bundle_id)
        if release is not None:
            return release.entry
        if bundle_id not in registered.unready:
            return None
        standing = await self._releases.standing(bundle_id)
        if standing is None or standing.base.entry is None:
            return None
        try:
            return entry_of(bundle_id, standing.base.entry)
        except InvalidEntry:  # of a later release of KDCube
            return None


def _not_genuine() -> Forbidden:
    return Forbidden("The sender is not proven: it must know the webhook's secret.", error="invalid_signature")


def _ignored(reason: str) -> Response:
    return json_response({"status": "ignored", "reason": reason})

"""What ingress offers, as a document."""

from __future__ import annotations

import importlib.metadata

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.bundles.live import LiveBundles, Registered
from kdcube.gateway.live import LiveGateway
from kdcube.ingress.openapi.document import openapi_document


class DocumentRoutes:
    """``/openapi.json``."""

    def __init__(self, *, live: LiveGateway, bundles: LiveBundles) -> None:
        self._version = importlib.metadata.version("kdcube")
        self._live = live
        self._bundles = bundles
        self._document: bytes | None = None
        live.subscribe(self._changed)
        bundles.subscribe(self._changed)

    def _changed(self, _: GatewayConfig | Registered) -> None:
        self._document = None

    async def openapi(self, request: Request) -> Response:
        if self._document is None:
            limits = self._live.current.limits.ingress
            document = openapi_document(self._version, limits, sorted(self._bundles.current.releases))
            self._document = msgspec.json.encode(document)
        return Response(self._document, media_type="application/json")

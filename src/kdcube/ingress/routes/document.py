"""What ingress offers, as a document."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.live import LiveGateway
from kdcube.ingress.openapi.document import openapi_document


class DocumentRoutes:
    """``/openapi.json``."""

    def __init__(self, *, live: LiveGateway, bundle_ids: Sequence[str]) -> None:
        self._version = importlib.metadata.version("kdcube")
        self._live = live
        self._bundle_ids = bundle_ids
        self._document: bytes | None = None
        live.subscribe(self._reconfigured)

    def _reconfigured(self, gateway: GatewayConfig) -> None:
        self._document = None

    async def openapi(self, request: Request) -> Response:
        if self._document is None:
            limits = self._live.current.limits.ingress
            self._document = msgspec.json.encode(openapi_document(self._version, limits, self._bundle_ids))
        return Response(self._document, media_type="application/json")

"""What the metrics service answers. It is for people and programs of the operator; nothing public leads here."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.exporting import ExportSettings
from kdcube.gateway.answers import json_response
from kdcube.metrics.exporting import shown
from kdcube.metrics.gathering import Gathering
from kdcube.metrics.scraped import Scraped
from kdcube.metrics.views import combined_view, component_view


class MetricsRoutes:
    def __init__(self, gathering: Gathering, scraped: Scraped, export: ExportSettings) -> None:
        self._gathering = gathering
        self._scraped = scraped
        self._export = export

    async def scrape(self, request: Request) -> Response:
        """``GET /metrics``."""
        told = self._scraped.answer(self._gathering.picture, request.headers.get("accept", ""))
        return Response(told.body, headers={"content-type": told.content_type})

    async def component(self, request: Request) -> Response:
        """``GET /metrics/{component}/system``."""
        view = component_view(self._gathering.picture, request.path_params["component"])
        if view is None:
            raise HTTPException(404)
        return json_response(view)

    async def export(self, request: Request) -> Response:
        """``GET /metrics/export``: what is exported, or would be; it exports nothing."""
        settings = self._export
        return json_response(shown(self._gathering.picture, settings.mapping, settings.cloudwatch.dimensions))

    async def combined(self, request: Request) -> Response:
        """``GET /metrics/combined``."""
        return json_response(combined_view(self._gathering.picture))

"""``/admin/audit``: who did what."""

from __future__ import annotations

import dataclasses

from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.identity.callers import Callers
from kdcube.ingress.routes.admin.pages import page_of
from kdcube.postgres.audit import MAX_PAGE, Audit


class AuditRoutes:
    """For administrators. Entries are only ever added."""

    def __init__(self, callers: Callers, audit: Audit) -> None:
        self._callers = callers
        self._audit = audit

    async def list(self, request: Request) -> Response:
        await self._callers.administrator(request)
        cursor, limit = page_of(request, MAX_PAGE, 50)
        query = request.query_params
        page = await self._audit.list(
            cursor=cursor, limit=limit, actor=query.get("actor") or None, act=query.get("act") or None
        )
        return json_response({"items": [dataclasses.asdict(entry) for entry in page.items], "next": page.next})

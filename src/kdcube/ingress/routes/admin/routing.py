"""The routes for administrators."""

from __future__ import annotations

from starlette.routing import Route

from kdcube.gateway.routing import route
from kdcube.ingress.routes.admin.audit import AuditRoutes
from kdcube.ingress.routes.admin.gateway_config import GatewayConfigRoutes
from kdcube.ingress.routes.admin.monitoring import MonitoringRoutes
from kdcube.ingress.routes.admin.turns import TurnRoutes


def admin_routes(
    config: GatewayConfigRoutes, audit: AuditRoutes, turns: TurnRoutes, monitoring: MonitoringRoutes
) -> list[Route]:
    under = "/admin/gateway-config"
    return [
        route(under, GET=config.show, PUT=config.put, PATCH=config.patch),
        route(f"{under}/validate", POST=config.validate),
        route(f"{under}/reset", POST=config.reset),
        route(f"{under}/rollback", POST=config.rollback),
        route(f"{under}/history", GET=config.history),
        route("/admin/audit", GET=audit.list),
        route("/admin/turns/{turn_id}", GET=turns.show),
        route("/monitoring/system", GET=monitoring.system),
    ]

"""The routes for administrators."""

from __future__ import annotations

from starlette.routing import Route

from kdcube.gateway.routing import route
from kdcube.ingress.routes.admin.audit import AuditRoutes
from kdcube.ingress.routes.admin.bundles import BundleRoutes
from kdcube.ingress.routes.admin.gateway_config import GatewayConfigRoutes
from kdcube.ingress.routes.admin.monitoring import MonitoringRoutes
from kdcube.ingress.routes.admin.turns import TurnRoutes


def admin_routes(
    config: GatewayConfigRoutes,
    bundles: BundleRoutes,
    audit: AuditRoutes,
    turns: TurnRoutes,
    monitoring: MonitoringRoutes,
) -> list[Route]:
    under = "/admin/gateway-config"
    return [
        route(under, GET=config.show, PUT=config.put, PATCH=config.patch),
        route(f"{under}/validate", POST=config.validate),
        route(f"{under}/reset", POST=config.reset),
        route(f"{under}/rollback", POST=config.rollback),
        route(f"{under}/history", GET=config.history),
        *_bundle_routes(bundles),
        route("/admin/audit", GET=audit.list),
        route("/admin/turns/{turn_id}", GET=turns.show),
        route("/monitoring/system", GET=monitoring.system),
    ]


def _bundle_routes(bundles: BundleRoutes) -> list[Route]:
    under = "/admin/bundles"
    one = under + "/{bundle_id}"
    return [
        route(under, GET=bundles.list, POST=bundles.add, PATCH=bundles.make_default),
        route(f"{under}/validate", POST=bundles.validate),
        route(one, GET=bundles.show, PUT=bundles.put, PATCH=bundles.patch, DELETE=bundles.remove),
        route(f"{one}/reload", POST=bundles.reload),
        route(f"{one}/rollback", POST=bundles.rollback),
        route(f"{one}/releases", GET=bundles.history),
        route(one + "/releases/{number}", GET=bundles.release),
    ]

"""Which service answers a public path: the one table that every renderer follows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from kdcube.gateway.edge import PREFIX


class Service(StrEnum):
    """What answers HTTP in public. The values are names that are used in rendered text."""

    INGRESS = "ingress"
    PROC = "proc"
    UI = "ui"
    PROXYLOGIN = "proxylogin"


@dataclass(frozen=True, slots=True)
class Route:
    """Everything below ``prefix``, which ends with a slash, is answered by ``service``; None: by nobody, ever."""

    prefix: str
    service: Service | None


_INTEGRATIONS = f"{PREFIX}/integrations/"

ROUTES: tuple[Route, ...] = (
    # Services answer without their prefix as well, so one that served metrics beside its API would do so below it.
    Route(f"{_INTEGRATIONS}metrics/", None),
    Route(f"{PREFIX}/metrics/", None),
    Route("/metrics/", None),
    Route(_INTEGRATIONS, Service.PROC),
    Route(f"{PREFIX}/", Service.INGRESS),
    Route("/chatbot/", Service.UI),
    Route("/auth/", Service.PROXYLOGIN),
)
"""The longest prefix wins. Paths are compared as they are written, with case."""


def service_of(path: str, present: Collection[Service]) -> Service | None:
    """Who answers ``path``, decoded and without query; None when nobody does, also when that service is not
    ``present``: a path never falls through to the service of a wider route.
    """
    matching = [route for route in ROUTES if path.startswith(route.prefix) or _is_closed(route, path)]
    if not matching:
        return None
    service = max(matching, key=lambda route: len(route.prefix)).service
    return service if service in present else None


def _is_closed(route: Route, path: str) -> bool:
    """What is closed is so without its last slash as well."""
    return route.service is None and path == route.prefix.rstrip("/")

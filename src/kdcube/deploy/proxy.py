"""What there is to know about the reverse proxy of a deployment. Everything is checked when it is made: what a renderer
gets cannot break out of the text that it writes. Raises InvalidInput, which names the field and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from kdcube.config.auth import Network
from kdcube.config.gateway import GatewayConfig
from kdcube.deploy.routes import Service
from kdcube.gateway.identity.addresses import Address
from kdcube.gateway.serving import KEEP_ALIVE_S
from kdcube.protocol.errors import InvalidInput

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)
_PATH = re.compile(r"/[^\x00-\x1f\x7f\"'\\$;{}]*")
_VERSION = re.compile(r"[A-Za-z0-9.+_-]{1,64}")
_OTHER_BODIES_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Named:
    """A service by a name that is resolved again and again, since its addresses change."""

    host: str
    port: int

    def __post_init__(self) -> None:
        check_host("services", self.host)
        check_port("services", self.port)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A service whose processes listen on addresses that stay: on one host."""

    addresses: tuple[tuple[Address, int], ...]

    def __post_init__(self) -> None:
        if not self.addresses:
            raise InvalidInput("services", "a service needs at least one address; leave it out if it does not run")
        for _, port in self.addresses:
            check_port("services", port)


Upstream: TypeAlias = Named | Fixed


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM that the proxy can read. ``lasting``: browsers may be told to insist on TLS from now on."""

    certificate: Path
    key: Path
    port: int = 443
    lasting: bool = True

    def __post_init__(self) -> None:
        check_path("certificate", self.certificate)
        check_path("key", self.key)
        check_port("port", self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """In seconds, and coherent: whoever is in front gives up first, and never sends into what is closing.

    stream keep-alive < the proxy's idle <= the balancer's idle < the proxy's keep-alive of connections.
    """

    stream_keepalive: int = 15
    """Between two signs of life of an idle stream (KDCUBE_KEEPALIVE_SEC)."""
    idle: int = 600
    """How long a service may say nothing within an answer."""
    balancer_idle: int | None = None
    """Of a load balancer in front of the proxy, if there is one."""
    service_keepalive: int = KEEP_ALIVE_S
    """How long services keep an unused connection."""
    connect: int = 3
    header: int = 10
    """For all of a request's head."""
    body: int = 15
    """Between two pieces of a request's body."""
    send: int = 60
    """For a client to take anything at all of its answer."""
    drain: int = 3600
    """How long streams outlive a reload of the proxy."""

    @property
    def client_keepalive(self) -> int:
        """How long the proxy keeps a client's unused connection."""
        return 75 if self.balancer_idle is None else self.balancer_idle + 20

    @property
    def upstream_keepalive(self) -> int:
        """How long the proxy keeps an unused connection to a service."""
        return self.service_keepalive - 15

    def __post_init__(self) -> None:
        for name in ("stream_keepalive", "idle", "service_keepalive", "connect", "header", "body", "send", "drain"):
            if not 1 <= getattr(self, name) <= 86_400:
                raise InvalidInput(name, f"{name} is {getattr(self, name)}; give 1 to 86400 seconds")
        if self.idle < 3 * self.stream_keepalive:
            raise InvalidInput(
                "idle",
                f"idle ({self.idle} s) must be at least three times stream_keepalive ({self.stream_keepalive} s)",
            )
        if self.service_keepalive <= 15:
            raise InvalidInput("service_keepalive", "service_keepalive must be above 15 s")
        if self.balancer_idle is not None and not self.idle <= self.balancer_idle <= 4_000:
            raise InvalidInput(
                "balancer_idle", f"balancer_idle ({self.balancer_idle} s) must be from idle ({self.idle} s) to 4000 s"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """What one address (one /64 of IPv6) may do. Many people may share one."""

    connections: int = 400
    requests_per_s: int = 50
    burst: int = 200

    def __post_init__(self) -> None:
        for name in ("connections", "requests_per_s", "burst"):
            if not 1 <= getattr(self, name) <= 60_000:
                raise InvalidInput(name, f"{name} is {getattr(self, name)}; give 1 to 60000")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFacts:
    """A reverse proxy. A service that is not in ``services`` does not exist: its routes answer 404."""

    folder: Path
    """Where it may write: its pid, and bodies on their way. Absolute, and its own."""
    services: Mapping[Service, Upstream]
    body_bytes: Mapping[Service, int]
    """The largest body that a service takes; see ``body_limits``."""
    listen: tuple[Address, ...]
    port: int = 80
    """Without TLS the port of everything, with TLS that of the redirect to it."""
    tls: Tls | None = None
    hosts: tuple[str, ...] = ()
    """The names that it serves; none: any."""
    resolver: tuple[Address, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: AddressLimits = field(default_factory=AddressLimits)
    max_open_files: int = 65_536
    access_log: Path = Path("/dev/stdout")
    """Where it says what became of each request, in lines of JSON without queries."""
    version: str = "0"
    config_checksum: str | None = None
    """Of the gateway configuration whose limits these are: told in its health."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", MappingProxyType(dict(self.services)))
        check_path("folder", self.folder)
        check_path("access_log", self.access_log)
        check_port("port", self.port)
        for host in self.hosts:
            check_host("hosts", host)
        if not self.listen:
            raise InvalidInput("listen", "listen is empty; give an address, such as 0.0.0.0")
        if not _VERSION.fullmatch(self.version):
            raise InvalidInput("version", f"version is {self.version!r}; give letters, digits and . + _ -")
        if self.config_checksum is not None and not _VERSION.fullmatch(self.config_checksum):
            raise InvalidInput(
                "config_checksum", f"config_checksum is {self.config_checksum!r}; give that of a configuration"
            )
        if any(isinstance(upstream, Named) for upstream in self.services.values()) and not self.resolver:
            raise InvalidInput("resolver", "services by name need a resolver; give the address of a name server")
        if not 256 <= self.max_open_files <= 1_048_576:
            raise InvalidInput("max_open_files", f"max_open_files is {self.max_open_files}; give 256 to 1048576")
        if self.tls is not None and self.tls.port == self.port:
            raise InvalidInput("port", f"port {self.port} cannot serve both HTTP and TLS; give another")
        for service in self.services:
            if not 1 <= self.body_bytes.get(service, 0) <= 1024**3:
                raise InvalidInput("body_bytes", f"body_bytes of {service} must be from 1 to 1073741824")


def body_limits(gateway: GatewayConfig) -> dict[Service, int]:
    """Those of the gateway configuration, so that the proxy refuses what the services would refuse."""
    return {
        Service.INGRESS: gateway.limits.ingress.max_body_bytes,
        Service.PROC: gateway.limits.proc.max_body_bytes,
        Service.UI: _OTHER_BODIES_BYTES,
        Service.PROXYLOGIN: _OTHER_BODIES_BYTES,
    }


def check_host(name: str, host: str) -> None:
    """A DNS name. Raises InvalidInput."""
    if not _HOST.fullmatch(host):
        raise InvalidInput(name, f"{name}: {host!r} is no name of a host; give one such as kdcube.example.org")


def check_port(name: str, port: int) -> None:
    """Raises InvalidInput."""
    if not 1 <= port <= 65_535:
        raise InvalidInput(name, f"{name}: {port} is no port; give 1 to 65535")


def check_path(name: str, path: Path) -> None:
    """An absolute path that can stand in a configuration. Raises InvalidInput."""
    if not _PATH.fullmatch(str(path)):
        raise InvalidInput(
            name, f"{name}: {str(path)!r} cannot be used; give an absolute path without quotes or ; $ {{ }}"
        )

"""The proxy's nginx configuration in a deployment by compose, by the renderer of all proxies."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

from kdcube.deploy.descriptor.edge import NoTls, SelfSigned
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.proxy import Named, ProxyFacts, Timeouts, Tls, body_limits
from kdcube.deploy.render.compose.secret_files import CERTIFICATE, KEY, MOUNTED
from kdcube.deploy.render.proxy import render_proxy
from kdcube.deploy.render.variables import PORTS
from kdcube.deploy.routes import Service

_RESOLVER = ip_address("127.0.0.11")
"""Docker's own, in every container."""
_FILES = 16_384
_UPSTREAMS = {
    Service.INGRESS: "ingress",
    Service.PROC: "proc",
    Service.UI: "web-ui",
    Service.PROXYLOGIN: "proxylogin",
}


def render_compose_proxy(descriptor: Descriptor, release: str) -> str:
    """nginx.conf of web-proxy. In its container nginx listens on the very ports that are published."""
    edge = descriptor.edge
    return render_proxy(
        ProxyFacts(
            folder=Path("/tmp"),  # noqa: S108 - of the container, which has it for itself
            services={
                service: Named(name, PORTS[name]) for service, name in _UPSTREAMS.items() if name in descriptor.running
            },
            body_bytes=body_limits(descriptor.gateway_config),
            listen=(ip_address("0.0.0.0"),),  # noqa: S104 - it is what people reach
            port=edge.http_port,
            tls=_tls(descriptor),
            hosts=edge.hosts,
            resolver=(_RESOLVER,),
            trusted_proxies=tuple(map(ip_network, edge.trusted_proxies)),
            timeouts=Timeouts(stream_keepalive=edge.keepalive_s, idle=edge.idle_s),
            max_open_files=_FILES,
            version=release,
            config_checksum=descriptor.gateway_config.checksum,
        )
    )


def _tls(descriptor: Descriptor) -> Tls | None:
    if isinstance(descriptor.tls, NoTls):
        return None
    return Tls(
        Path(MOUNTED, CERTIFICATE),
        Path(MOUNTED, KEY),
        descriptor.edge.https_port,
        lasting=not isinstance(descriptor.tls, SelfSigned),
    )

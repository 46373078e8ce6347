"""The whole of kdcube.yaml, after an environment was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, JsonValue

from kdcube.config.environment import Whole
from kdcube.config.gateway import GatewayConfig, Scope, Valid, check_gateway_document
from kdcube.deploy.descriptor.auth import Auth, NoProvider
from kdcube.deploy.descriptor.bundles import Bundles
from kdcube.deploy.descriptor.data import Data, Storage
from kdcube.deploy.descriptor.edge import Edge, EdgeKind, NoTls, Tls
from kdcube.deploy.descriptor.parts import Part
from kdcube.deploy.descriptor.secrets import Secrets
from kdcube.deploy.descriptor.services import Service, Services, WebProxy

IMAGES: Mapping[str, str] = {
    "ingress": "kdcube-chat-ingress",
    "proc": "kdcube-chat-proc",
    "metrics": "kdcube-metrics",
    "web-proxy": "kdcube-web-proxy",
    "proxylogin": "proxylogin",
    "web-ui": "kdcube-web-ui",
    "executor": "kdcube-exec",
}
"""Of each service by its name: what its image is called."""


class Descriptor(Part):
    """A deployment."""

    version: Annotated[Whole, Field(ge=1, le=1)]
    """Of this format."""
    tenant: Scope
    """Whose installation it is. Everything that is stored is scoped by it."""
    project: Scope
    """Of the tenant. Everything that is stored is scoped by it."""
    edge: Edge = Edge()
    """Where people come in."""
    tls: Tls = NoTls(kind="none")
    """The certificate of the edge. A text stands for ``kind`` alone."""
    services: Services = Services()
    """What runs."""
    data: Data = Data()
    """The stores."""
    storage: Storage = Storage()
    """Files."""
    bundles: Bundles = Bundles()
    """What is served, and where its code comes from."""
    gateway: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """GATEWAY_CONFIG_JSON without tenant and project, in any of its shapes."""
    auth: Auth = NoProvider(provider="none")
    """How callers are known. A text stands for ``provider`` alone."""
    secrets: Secrets = Secrets()
    """Where secrets are, never what they are."""

    @property
    def gateway_document(self) -> dict[str, Any]:
        """With tenant and project, as it is checked."""
        return {**self.gateway, "tenant": self.tenant, "project": self.project}

    @cached_property
    def gateway_config(self) -> GatewayConfig:
        """What all services are told: with the numbers of processes that ``services`` says. Every descriptor that was
        read has one.
        """
        checked = check_gateway_document(self.gateway_document)
        if not isinstance(checked, Valid):
            raise ValueError(f"gateway.{checked}")
        capacity = checked.config.service_capacity
        told = capacity.model_copy(
            update={
                "ingress": capacity.ingress.model_copy(
                    update={"processes_per_instance": self.services.ingress.processes}
                ),
                "proc": capacity.proc.model_copy(update={"processes_per_instance": self.services.proc.processes}),
            }
        )
        return checked.config.model_copy(update={"service_capacity": told})

    @property
    def running(self) -> Mapping[str, Service]:
        """The services that are there, by name as it is written. With ``edge: proxy`` there is a web-proxy."""
        services = self.services
        proxy = services.web_proxy or (WebProxy() if self.edge.kind is EdgeKind.PROXY else None)
        named: dict[str, Service | None] = {
            "ingress": services.ingress,
            "proc": services.proc,
            "metrics": services.metrics,
            "web-proxy": proxy,
            "proxylogin": services.proxylogin,
            "web-ui": services.web_ui,
            "executor": services.executor,
        }
        return {name: service for name, service in named.items() if service is not None}

    def image_of(self, name: str, release: str) -> str:
        """The image of a service; ``release`` is the version whose images are meant where none is given."""
        return self.running[name].image or f"{IMAGES[name]}:{release}"

    @property
    def slots(self) -> int:
        """Turns at once in one process of proc."""
        return self.services.proc.slots or self.gateway_config.service_capacity.proc.concurrent_requests_per_process

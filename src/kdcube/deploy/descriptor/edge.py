"""Where people come in: the edge and its TLS."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from kdcube.config.environment import Whole
from kdcube.deploy.descriptor.aws import Aws, CertificateArn
from kdcube.deploy.descriptor.parts import Host, NetworkText, Part
from kdcube.deploy.descriptor.references import ReferenceText

Port = Annotated[Whole, Field(ge=1, le=65_535)]


class EdgeKind(StrEnum):
    PROXY = "proxy"
    ALB_PATHS = "alb-paths"


class Edge(Part):
    """What takes requests, and passes them on by their paths. A text stands for ``kind`` alone."""

    kind: EdgeKind = EdgeKind.PROXY
    """``proxy``: nginx of ours, on ECS behind a load balancer; ``alb-paths``: a load balancer of AWS by itself."""
    hosts: Annotated[tuple[Host, ...], Field(max_length=25)] = ()
    """The names under which people come. None: any."""
    http_port: Port = 80
    """Without TLS the port of everything, with TLS that of the redirect to it."""
    https_port: Port = 443
    """With TLS."""
    trusted_proxies: Annotated[tuple[NetworkText, ...], Field(max_length=64)] = ()
    """Networks whose X-Forwarded-For is believed, beside those of our own edge."""
    keepalive_s: Annotated[Whole, Field(ge=1, le=300)] = 15
    """Between two signs of life of an idle stream."""
    idle_s: Annotated[Whole, Field(ge=3, le=4_000)] = 600
    """How long the edge waits for anything to be said on a connection."""
    aws: Aws | None = None
    """What there is on AWS. Required for ECS."""


class NoTls(Part):
    """Plain HTTP: for trials, and behind something that ends TLS."""

    kind: Literal["none"]


class SelfSigned(Part):
    """A certificate that is made at the first start, and believed by nobody: for trials."""

    kind: Literal["self-signed"]


class GivenTls(Part):
    """A certificate that is there."""

    kind: Literal["given"]
    certificate: ReferenceText | None = None
    """The chain in PEM. Required for compose."""
    key: ReferenceText | None = None
    """Its private key in PEM. Required for compose."""
    acm: CertificateArn | None = None
    """The certificate in AWS Certificate Manager that the load balancer shows. Required for ECS."""


Tls: TypeAlias = Annotated[NoTls | SelfSigned | GivenTls, Field(discriminator="kind")]

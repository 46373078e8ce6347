"""The edge, its certificate, and signing in."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from kdcube.config.documents import Finding
from kdcube.deploy.descriptor.auth import Cognito, Login, NoProvider, Oidc, Tokens
from kdcube.deploy.descriptor.checks.rule import BOTH, COMPOSE, ECS, Rule
from kdcube.deploy.descriptor.edge import EdgeKind, GivenTls, NoTls, SelfSigned
from kdcube.deploy.descriptor.model import Descriptor


def path_routing_has_no_proxy(descriptor: Descriptor) -> Iterator[Finding]:
    if descriptor.edge.kind is EdgeKind.ALB_PATHS and descriptor.services.web_proxy is not None:
        yield Finding("services.web-proxy", "has nothing to do with edge alb-paths; remove it, or give edge: proxy")


def path_routing_is_of_aws(descriptor: Descriptor) -> Iterator[Finding]:
    if descriptor.edge.kind is EdgeKind.ALB_PATHS:
        yield Finding("edge.kind", "is alb-paths, which compose has not; give proxy")


def ports_of_the_edge_differ(descriptor: Descriptor) -> Iterator[Finding]:
    edge = descriptor.edge
    if not isinstance(descriptor.tls, NoTls) and edge.http_port == edge.https_port:
        yield Finding("edge.https_port", f"is {edge.https_port}, as http_port; give another")


def keepalive_outlasts_no_idle_time(descriptor: Descriptor) -> Iterator[Finding]:
    """A sign of life that is lost must not end a stream: three of them fit into the idle time."""
    edge = descriptor.edge
    if 3 * edge.keepalive_s > edge.idle_s:
        yield Finding(
            "edge.idle_s",
            f"is {edge.idle_s} s; give three times edge.keepalive_s ({edge.keepalive_s} s) at least",
        )


def aws_is_told(descriptor: Descriptor) -> Iterator[Finding]:
    if descriptor.edge.aws is None:
        yield Finding("edge.aws", "is missing; give its region at least, as {region: eu-west-1}")


def balancer_shows_a_certificate(descriptor: Descriptor) -> Iterator[Finding]:
    """A load balancer takes certificates of ACM alone."""
    match descriptor.tls:
        case GivenTls(acm=None):
            yield Finding("tls.acm", "is missing; give the ARN of a certificate in AWS Certificate Manager")
        case SelfSigned():
            yield Finding("tls.kind", "is self-signed, which a load balancer does not take; give given, with acm")
        case _:
            pass


def proxy_has_its_certificate(descriptor: Descriptor) -> Iterator[Finding]:
    if isinstance(descriptor.tls, GivenTls):
        for name in ("certificate", "key"):
            if getattr(descriptor.tls, name) is None:
                yield Finding(f"tls.{name}", "is missing; give a reference, such as file:tls/site.pem")


def people_come_by_tls(descriptor: Descriptor) -> Iterator[Finding]:
    """Told, and not refused: something in front may end TLS."""
    if isinstance(descriptor.tls, NoTls):
        yield Finding(
            "tls", "is none: what people send can be read on its way; give a certificate for more than a trial"
        )


def a_certificate_is_for_a_host(descriptor: Descriptor) -> Iterator[Finding]:
    if isinstance(descriptor.tls, GivenTls) and not descriptor.edge.hosts:
        yield Finding("edge.hosts", "is empty; give the names that the certificate is for")


def somebody_can_come(descriptor: Descriptor) -> Iterator[Finding]:
    if isinstance(descriptor.auth, NoProvider) and not descriptor.auth.anonymous:
        yield Finding("auth.anonymous", "is false with provider none, so nobody is served; give a provider")


def login_of(descriptor: Descriptor) -> Login | None:
    """Its settings, where the provider has any."""
    return descriptor.auth.login if isinstance(descriptor.auth, Oidc | Cognito) else None


def proxylogin_has_a_provider(descriptor: Descriptor) -> Iterator[Finding]:
    login = login_of(descriptor)
    if descriptor.services.proxylogin is None:
        if login is not None:
            yield Finding("auth.login", "has nobody to use it; add services.proxylogin, or remove it")
    elif isinstance(descriptor.auth, NoProvider | Tokens):
        yield Finding(
            "auth.provider",
            f"is {descriptor.auth.provider}, but proxylogin signs people in at a provider; give oidc or cognito",
        )
    elif login is None:
        yield Finding("auth.login", "is missing; give its public_url, which services.proxylogin needs")


def login_is_on_this_site(descriptor: Descriptor) -> Iterator[Finding]:
    """Browsers send the cookie back only to where it came from."""
    login, hosts = login_of(descriptor), descriptor.edge.hosts
    if login is None:
        return
    url = urlsplit(login.public_url)
    if hosts and url.hostname not in hosts:
        yield Finding("auth.login.public_url", f"is not on one of edge.hosts ({', '.join(hosts)})")
    if url.scheme == "http" and not isinstance(descriptor.tls, NoTls):
        yield Finding("auth.login.public_url", "is http, but the edge has TLS; give https")


def login_ends_in_order(descriptor: Descriptor) -> Iterator[Finding]:
    login = login_of(descriptor)
    if login is not None and login.idle_s > login.lifetime_s:
        yield Finding("auth.login.idle_s", f"is {login.idle_s}, above lifetime_s, which is {login.lifetime_s}")


RULES = (
    Rule(BOTH, path_routing_has_no_proxy),
    Rule(COMPOSE, path_routing_is_of_aws),
    Rule(BOTH, ports_of_the_edge_differ),
    Rule(BOTH, keepalive_outlasts_no_idle_time),
    Rule(ECS, aws_is_told),
    Rule(ECS, balancer_shows_a_certificate),
    Rule(COMPOSE, proxy_has_its_certificate),
    Rule(BOTH, people_come_by_tls, refuses=False),
    Rule(BOTH, a_certificate_is_for_a_host),
    Rule(BOTH, somebody_can_come),
    Rule(BOTH, proxylogin_has_a_provider),
    Rule(BOTH, login_is_on_this_site),
    Rule(BOTH, login_ends_in_order),
)

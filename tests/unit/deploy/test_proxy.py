"""Facts that could break out of a configuration, or contradict each other, are refused by name."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from kdcube.config.gateway import GatewayConfig
from kdcube.deploy.proxy import AddressLimits, Fixed, Named, ProxyFacts, Timeouts, Tls, body_limits
from kdcube.deploy.routes import Service
from kdcube.protocol.errors import InvalidInput

LOOPBACK = ip_address("127.0.0.1")
HOSTILE = [
    'a"b',
    "a'b",
    "a;b",
    "a\nb",
    "a b",
    "a{b",
    "a}b",
    "a$b",
    "a\\b",
    "a#b",
    "",
    "-a",
    "a..b",
    "é",
    "a" * 254,
    "a\n",
]


def facts(**changes) -> ProxyFacts:
    usual = {
        "folder": Path("/var/lib/proxy"),
        "services": {Service.INGRESS: Fixed(((LOOPBACK, 8010),))},
        "body_bytes": body_limits(GatewayConfig(tenant="t", project="p")),
        "listen": (LOOPBACK,),
    }
    return ProxyFacts(**{**usual, **changes})


@pytest.mark.parametrize("host", HOSTILE)
def test_hostile_names(host):
    with pytest.raises(InvalidInput, match="services"):
        Named(host, 80)
    with pytest.raises(InvalidInput, match="hosts"):
        facts(hosts=(host,))


@pytest.mark.parametrize(
    "path", ['/a"b', "/a'b", "/a;b", "/a\nb", "/a{b", "/a$b", "/a\\b", "relative", "/a\x00b", "/a\n"]
)
def test_hostile_paths(path):
    with pytest.raises(InvalidInput, match="certificate"):
        Tls(Path(path), Path("/key.pem"))
    with pytest.raises(InvalidInput, match="key"):
        Tls(Path("/certificate.pem"), Path(path))
    with pytest.raises(InvalidInput, match="folder"):
        facts(folder=Path(path))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("version", {"version": "1; return 200"}),
        ("port", {"port": 0}),
        ("port", {"port": 443, "tls": Tls(Path("/c"), Path("/k"))}),
        ("listen", {"listen": ()}),
        ("resolver", {"services": {Service.PROC: Named("proc", 8020)}}),
        ("body_bytes", {"body_bytes": {}}),
        ("max_open_files", {"max_open_files": 1}),
    ],
)
def test_facts_that_contradict_or_exceed(field, changes):
    with pytest.raises(InvalidInput) as refused:
        facts(**changes)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "times"),
    [
        ("idle", {"idle": 30, "stream_keepalive": 15}),
        ("balancer_idle", {"idle": 600, "balancer_idle": 60}),
        ("balancer_idle", {"idle": 600, "balancer_idle": 9_000}),
        ("service_keepalive", {"service_keepalive": 10}),
        ("connect", {"connect": 0}),
    ],
)
def test_timeouts_are_coherent(field, times):
    with pytest.raises(InvalidInput) as refused:
        Timeouts(**times)
    assert refused.value.field == field


def test_whoever_is_in_front_gives_up_first():
    times = Timeouts(balancer_idle=600)
    assert times.stream_keepalive < times.idle <= 600 < times.client_keepalive
    assert times.upstream_keepalive < times.service_keepalive


def test_limits_of_an_address():
    with pytest.raises(InvalidInput, match="connections"):
        AddressLimits(connections=0)


def test_an_upstream_without_addresses():
    with pytest.raises(InvalidInput, match="at least one"):
        Fixed(())
    with pytest.raises(InvalidInput, match="no port"):
        Fixed(((LOOPBACK, 70_000),))

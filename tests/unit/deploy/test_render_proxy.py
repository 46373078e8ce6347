"""The rendered configuration, and what it takes for a plainly written path."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deploy.test_proxy import facts

from kdcube.deploy.proxy import AddressLimits, Fixed, Named, Timeouts, Tls
from kdcube.deploy.render.nginx import directive, quoted
from kdcube.deploy.render.proxy import STRAIGHT, render_proxy
from kdcube.deploy.routes import Service

GOLDEN = Path(__file__).parents[2] / "golden" / "proxy"
LOOPBACK, ANYWHERE = ip_address("127.0.0.1"), ip_address("0.0.0.0")
EACH = {Service.INGRESS: 8010, Service.PROC: 8020, Service.UI: 80, Service.PROXYLOGIN: 8030}

VARIANTS = {
    "one-host": facts(
        services={
            Service.INGRESS: Fixed(((LOOPBACK, 8010), (LOOPBACK, 8011))),
            Service.PROC: Fixed(((LOOPBACK, 8020),)),
        },
        port=8080,
    ),
    "behind-a-balancer": facts(
        services={service: Named(f"{service}.kdcube.local", port) for service, port in EACH.items()},
        listen=(ANYWHERE,),
        resolver=(ip_address("169.254.169.253"),),
        trusted_proxies=(ip_network("10.0.0.0/16"), ip_network("fd00::/8")),
        timeouts=Timeouts(balancer_idle=600),
    ),
    "tls": facts(
        services={service: Fixed(((ip_address("::1"), port),)) for service, port in EACH.items()},
        listen=(ANYWHERE, ip_address("::")),
        tls=Tls(Path("/etc/kdcube/certificate.pem"), Path("/etc/kdcube/key.pem")),
        hosts=("chat.example.org", "www.chat.example.org"),
        limits=AddressLimits(connections=50, requests_per_s=10, burst=20),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_golden_files(name):
    """KDCUBE_GOLDEN=write writes them, for review."""
    rendered = render_proxy(VARIANTS[name])
    golden = GOLDEN / f"{name}.conf"
    if os.environ.get("KDCUBE_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x00b", "\x1b[0m"])
def test_no_argument_holds_control_characters(text):
    with pytest.raises(ValueError, match="control character"):
        directive("set", "$x", text)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_no_argument_ends_its_directive(text):
    written = quoted(text)
    if not written.startswith('"'):
        assert not set(written) & set(" \t;{}\"'\\#")
    else:
        assert re.fullmatch(r'"(?:[^"\\]|\\["\\])*"', written)
        assert re.sub(r"\\(.)", r"\1", written[1:-1]) == text


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/chatbot/api/sse/stream?stream_id=1&bearer_token=a.b/c;d%2f..//", "/chatbot/api/v1/models/a@1.2.0"),
        *("/chatbot/api/conversations/turn_1:x=+%40%3A%2B%3D", "/chatbot/.well-known/x", "/chatbot/a%20%C3%A9(1)!~"),
    ],
)
def test_plain_paths(target):
    assert re.search(STRAIGHT, target)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "//",
            "//chatbot/",
            "/chatbot//api/",
            "/chatbot/api/../metrics",
            "/./metrics",
            "/..",
            "/chatbot/..",
            "/...",
            "/a/..",
        ),
        *(
            "/%2e%2e/metrics",
            "/%2E/metrics",
            "/chatbot/api%2fmetrics",
            "/chatbot%2Fapi/x",
            "/a%5c..%5cmetrics",
            "/a\\..\\b",
        ),
        *(
            "/chatbot/api;x=1/metrics",
            "/%3bx",
            "/%6detrics",
            "/m%65trics",
            "/%252e%252e/",
            "/a%00b",
            "/a%0ab",
            "/%",
            "/%4",
        ),
        *(
            "/%zz",
            "/a b",
            "/é",
            "/a#b",
            "/a?b#c",
            "",
            "*",
            "chatbot",
            "http://host/chatbot",
            '/a"b',
            "/a{b}",
            "/..?x",
            "/../?x",
        ),
    ],
)
def test_crooked_paths(path):
    assert not re.search(STRAIGHT, path)


@given(st.lists(st.text(min_size=1), min_size=1))
def test_what_clients_encode_is_plain_unless_it_means_something_else(segments):
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    told = any(set(segment) == {"."} or set(segment) & set("/\\;%\x7f") or min(segment) < " " for segment in segments)
    assert bool(re.search(STRAIGHT, path)) is not told


@given(st.lists(st.sampled_from([*"/.;%25eEfFabc\\?", "..", "%2f", "%2e", "%41", "%20", "/a", "metrics"])))
def test_a_plain_path_reads_the_same_decoded_and_tidied(parts):
    target = "/" + "".join(parts)
    if re.search(STRAIGHT, target):
        path = target.partition("?")[0]
        decoded = unquote(path)
        assert unquote(decoded) == decoded
        assert [part for part in decoded.split("/")[1:-1] if set(part) <= {"."}] == []
        assert os.path.normpath(decoded).lstrip("/") == decoded.strip("/") or decoded == "/"

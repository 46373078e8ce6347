"""What nginx routes and what services take a path to be agree, however it is written."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.deploy.test_routes import SAMPLES

from kdcube.deploy.routes import Service, service_of

pytestmark = pytest.mark.anyio

TRICKS = r"""
//metrics
/chatbot//api/x
//chatbot/api/x
/chatbot/api//integrations/x
/chatbot/api/integrations//x
/./metrics
/chatbot/./api/x
/chatbot/api/../metrics
/chatbot/api/../../metrics
/chatbot/api/..
/chatbot/api/integrations/../sse/chat
/chatbot/api/x/../integrations/y
/../metrics
/...
/chatbot/.../x
/%2e%2e/metrics
/chatbot/api/%2e%2e/metrics
/chatbot/api/%2E./metrics
/chatbot/api/.%2e/x
/%2e/x
/chatbot%2fapi%2fx
/chatbot/api%2Fmetrics
/chatbot/api/integrations%2fx
/chatbot/api/x%2f..%2fmetrics
/chatbot/api/%69ntegrations/x
/%6detrics
/chatbot/%61pi/x
/%63hatbot/api/x
/m%45trics
/chatbot/api;v=1/integrations/x
/chatbot/api/integrations;x/y
/metrics;x
/;/metrics
/chatbot/api/%3bx
/chatbot/api/%252e%252e/metrics
/%2525
/chatbot/api/x%00/metrics
/chatbot/api/%0d%0aX:y
/metrics%00
/chatbot\api\x
/chatbot/api/..\metrics
/chatbot/api/%5c..%5cmetrics
/METRICS
/Metrics/x
/CHATBOT/api
/metrics.
/metrics..
/metrics/.
/metrics%20
/metrics?x
/metrics/?x
/metrics#x
/chatbot/api/#x
/chatbot/api?x
/chatbot/api/?/../metrics
/chatbot/api/x?y#/metrics
/chatbot/api/x%3f/metrics
/?/metrics
/chatbot/api/x%23/metrics
/chatbot/api/é
/chatbot/api/%c0%ae%c0%ae/metrics
/chatbot/api/%u002e/x
/%
/chatbot/api/chatbot/api/x
/chatbot/api/metrics
/chatbot/api/integrations/metrics/x
/chatbot/api/metrics/
http://localhost/chatbot/api/x
http://localhost/metrics
http://localhost/chatbot/api/../metrics
http://elsewhere/chatbot/api/x
http://localhost
http://localhost//metrics
https://localhost/chatbot/api/x
http://localhost/chatbot/api/integrations/x
http://localhost@elsewhere/chatbot/
ftp://localhost/metrics
*
chatbot/api/x
?x
#
/chatbot/api/ x
/chatbot/api/<x>
/chatbot/api/"x"
""".strip("\n").split("\n")


async def test_samples(open_front):
    async with open_front() as front:
        for path, service in SAMPLES:
            status, _, body = await front.nginx.get(path)
            assert (status, body.decode() if status == 200 else None) == (200 if service else 404, service), path
        assert [request.target for request in front.sent if "metrics" in request.target] == []


async def test_what_is_absent_is_404(open_front):
    async with open_front(absent=(Service.PROC, Service.UI, Service.PROXYLOGIN)) as front:
        for path in ("/chatbot/api/integrations/x", "/chatbot/", "/auth/login", "/nothing"):
            status, headers, body = await front.nginx.get(path)
            assert status == 404
            told = json.loads(body)
            assert told["error"] == "not_found"
            assert told["request_id"] == headers["x-request-id"]
        assert front.sent == []


def check_agreement(front, target: str) -> None:
    """Whoever was sent something is who, reading the path by itself, would say that it is meant for."""
    for service in front.services:
        for request in service.requests:
            path = unquote(request.target.partition("?")[0])
            assert service_of(path, frozenset(Service)) == service.name, (target, request.target)
            assert request.target in target, (target, request.target)
            assert ".." not in path.split("/")
            assert "//" not in path
        service.requests.clear()


@pytest.mark.parametrize("target", TRICKS)
async def test_tricks(open_front, target):
    async with open_front() as front:
        status, headers, _ = await front.nginx.get(target)
        assert status in (200, 400, 404)
        assert headers["server"] == "nginx"
        assert (status == 200) is bool(front.sent)
        check_agreement(front, target)


PIECES = ["/", "//", ".", "..", "%2e", "%2f", "%2F", "%5c", ";", "%3b", "%25", "%00", "\\", "?", "#", "x", "%41", "%20"]
PIECES += [
    "/chatbot",
    "/api",
    "/integrations",
    "/metrics",
    "/auth",
    "/Metrics",
    "metrics",
    "api",
    "chatbot",
    "http://localhost",
]


async def test_made_up_paths(open_front):
    async with open_front() as front:
        loop = asyncio.get_running_loop()

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9))
        def agree(pieces: list[str]) -> None:
            target = "".join(pieces)
            asyncio.run_coroutine_threadsafe(front.nginx.get(target), loop).result(30)
            check_agreement(front, target)

        await asyncio.to_thread(agree)


@pytest.mark.parametrize("host", ["elsewhere:80:80", "", "a b", "loc\\alhost", "elsewhere/x"])
async def test_hosts_that_are_none(open_front, host):
    async with open_front() as front:
        status, _, _ = await front.nginx.get("/chatbot/api/x", host=host)
        assert status == 400
        assert front.sent == []


async def test_other_hosts_are_not_served(open_front):
    async with open_front(hosts=("chat.example.org",)) as front:
        assert (await front.nginx.get("/chatbot/api/x", host="chat.example.org:80"))[0] == 200
        status, _, body = await front.nginx.get("/chatbot/api/x", host="elsewhere")
        assert (status, json.loads(body)["error"]) == (421, "misdirected")
        assert (await front.nginx.get("/health", host="10.0.0.1"))[0] == 200
        assert len(front.sent) == 1


async def test_two_lengths_are_refused(open_front):
    """Requests must not be taken for one by nginx and for two by a service."""
    async with open_front() as front:
        post = "POST /chatbot/api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        for lengths in (
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ):
            status, _, _ = await front.nginx.send(f"{post}{lengths}\r\n0\r\n\r\n")
            assert status in (400, 501)
        assert front.sent == []


async def test_methods_that_are_none_of_ours(open_front):
    async with open_front() as front:
        for method in ("TRACE", "CONNECT"):
            assert (await front.nginx.get("/chatbot/api/x", method=method))[0] in (400, 405)
        assert front.sent == []

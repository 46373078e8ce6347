"""Cookies that another host of the domain, or another page of it, has added."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.ingress.asking import refused

pytestmark = pytest.mark.anyio

HTTPS = {"X-Forwarded-Proto": "https"}
NAME, PLAIN = "__Host-kdcube_session", "kdcube_session"


async def opened(bench: Any, **headers: str) -> tuple[str, str]:
    """A newcomer: the user's id, and the cookie as it is set."""
    answer = await (await bench.client()).get("/profile", headers=headers)
    return answer.json()["user_id"], answer.headers["set-cookie"]


def value_of(cookie: str) -> str:
    return cookie.partition("=")[2].partition(";")[0]


async def who(bench: Any, cookie: str, **headers: str) -> str:
    answer = await (await bench.client()).get("/profile", headers={"Cookie": cookie, **headers})
    assert answer.status_code == 200, answer.text
    return answer.json()["user_id"]


async def test_over_https_no_sibling_can_plant_a_session(bench: Any) -> None:
    """What the victim then says would be the attacker's to read."""
    attacker, planted = await opened(bench)
    assert planted.startswith(f"{PLAIN}=")
    user, own = await opened(bench, **HTTPS)
    assert own.startswith(f"{NAME}=") and own.endswith("; Secure") and "Path=/;" in own and "Domain" not in own
    assert await who(bench, f"{PLAIN}={value_of(planted)}", **HTTPS) not in {attacker, user}
    assert await who(bench, f"{NAME}={value_of(own)}; {PLAIN}={value_of(planted)}", **HTTPS) == user
    assert await who(bench, f"{PLAIN}={value_of(planted)}") == attacker


async def test_of_two_cookies_none_is_chosen(bench: Any) -> None:
    """Which of them is the user's own nobody can tell: browsers send the name and the value, not where it is from."""
    first, second = [value_of((await opened(bench))[1]) for _ in range(2)]
    client = await bench.client()
    for cookie in (f"{PLAIN}={first}; {PLAIN}={second}", f"{PLAIN}={first};x=1;{PLAIN} = {second}"):
        refused(await client.get("/profile", headers={"Cookie": cookie}), 401, "ambiguous_cookie")
    apart = [("Cookie", f"{PLAIN}={first}"), ("Cookie", f"{PLAIN}={second}")]
    refused(await client.get("/profile", headers=apart), 401, "ambiguous_cookie")
    for name in ("__Secure-LATC", "__Secure-LITC"):
        cookie = f"{name}=alice-token; {name}=bob-token"
        refused(await client.get("/conversations", headers={"Cookie": cookie}), 401, "ambiguous_cookie")
    assert await who(bench, f"{PLAIN}={first}; {PLAIN}={first}")

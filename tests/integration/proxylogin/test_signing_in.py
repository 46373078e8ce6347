"""Signing in at a real provider, by the code flow; and what attackers try with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from starlette.routing import Route
from tests.eventually import eventually

from kdcube.gateway.documents import resolved
from kdcube.gateway.identity.logins import Login
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.gateway_configs import GatewayConfigs
from kdcube.proxylogin.app import _router
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources

if TYPE_CHECKING:
    from conftest import Browser, World
    from kdcube.proxylogin.app import ProxyLogin

pytestmark = pytest.mark.anyio


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_a_user_signs_in_and_is_back_where_they_were(world: World, browser: Browser) -> None:
    asked = query_of(await browser.begin("/c/1?tab=files"))
    assert asked["code_challenge_method"] == "S256" and asked["response_type"] == "code"
    assert len(asked["state"]) > 60 and len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    answer = await browser.sign_in("paula", "/c/1?tab=files")
    assert (answer.status_code, answer.headers["location"]) == (303, "http://127.0.0.1:1/c/1?tab=files")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith("kdcube_login="))
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Max-Age=86400" in cookie
    told = (await browser.session()).json()
    assert told["signed_in"] and abs(told["ends_at"] - time.time() - 86_400) < 60
    assert told["user"] == {
        "id": "paula",
        "username": "paula",
        "email": "paula@example.org",
        "roles": ["kdcube:role:paid"],
        "user_type": "paid",
    }
    resolved = await world.resolver().resolve(browser.cookie or "")
    assert isinstance(resolved, Login) and resolved.identity.user_id == "paula"
    opened = await world.acts("login.opened")
    assert [(entry.actor, entry.address) for entry in opened] == [("paula", "127.0.0.1")]


async def test_nothing_of_it_is_readable_in_the_stores(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in("paula")
    rows = await world.database.fetch("select * from logins")
    text = repr([list(row.values()) for row in rows])
    assert cookie not in text and "paula@example.org" not in text and "eyJ" not in text
    assert b"eyJ".hex() not in text
    await world.resolver().resolve(cookie)
    for key in await world.valkey.call("KEYS", "*:login:*"):
        value = await world.valkey.call("GET", key)
        assert cookie.encode() not in key and b"paula" not in value


async def test_over_https_the_cookie_is_the_hosts_own(world: World) -> None:
    replica = await world.replica(PROXYLOGIN_PUBLIC_URL="https://chat.example.org")
    answer = await (await world.browser(replica)).get("/auth/login")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-kdcube_signing_in=") and cookie.endswith("; Secure")
    assert "Domain" not in cookie and query_of(answer.headers["location"])["redirect_uri"].startswith("https://chat")


@pytest.mark.parametrize("return_to", ["//evil.example", "/\\evil.example", "https://evil.example", "/%2f%2fevil"])
async def test_nobody_is_sent_elsewhere(browser: Browser, return_to: str) -> None:
    answer = await browser.get("/auth/login", params={"return_to": return_to}, headers={})
    assert answer.status_code == 400 and answer.json()["field"] == "return_to"
    assert "set-cookie" not in answer.headers
    twice = await browser.get("/auth/login?return_to=/&return_to=//evil.example")
    assert twice.status_code == 400


async def test_a_sign_in_is_answered_once(world: World, browser: Browser) -> None:
    callback = await browser.consent(await browser.begin())
    before = dict(browser.site.cookies)
    assert (await browser.get(callback)).status_code == 303
    for name, value in before.items():
        browser.site.cookies.set(name, value, domain="127.0.0.1")
    again = await browser.get(callback, headers={})
    assert (again.status_code, again.json()["error"]) == (400, "sign_in_repeated")
    assert await world.row("count(*)") == 1


async def test_a_sign_in_of_another_browser_is_none(world: World, replica: ProxyLogin, browser: Browser) -> None:
    """An attacker's code and state in a victim's browser would sign the victim in as the attacker."""
    callback = await browser.consent(await browser.begin(), "bob")
    victim = await world.browser(replica)
    for prepare in (None, "/c/1"):
        if prepare:
            await victim.begin(prepare)
        answer = await victim.get(callback, headers={})
        assert (answer.status_code, answer.json()["error"]) == (400, "unknown_sign_in")
        assert victim.cookie is None
    assert (await browser.get(callback)).status_code == 303  # it was not spent by that


async def test_a_code_of_another_sign_in_is_refused(world: World, replica: ProxyLogin, browser: Browser) -> None:
    """Injected into a sign-in that the victim began: PKCE binds the code to the browser that asked for it."""
    stolen = query_of(await browser.consent(await browser.begin(), "bob"))["code"]
    victim = await world.browser(replica)
    own = query_of(await victim.consent(await victim.begin(), "alice"))
    answer = await victim.get(f"/auth/callback?{urlencode({**own, 'code': stolen})}", headers={})
    assert (answer.status_code, answer.json()["error"]) == (400, "sign_in_failed")
    assert stolen not in answer.text and victim.cookie is None
    (failed,) = await world.acts("login.failed")
    assert failed.outcome == "refused" and stolen not in repr(failed)


async def test_an_id_token_with_another_nonce_is_refused(browser: Browser) -> None:
    url = await browser.begin()
    asked = query_of(url)
    callback = await browser.consent(url.replace(asked["nonce"], "A" * 43))
    answer = await browser.get(callback, headers={})
    assert (answer.status_code, answer.json()["error"]) == (400, "sign_in_failed")
    assert "another sign-in" in answer.json()["message"] and browser.cookie is None


async def test_the_answer_must_be_of_the_provider_that_was_asked(browser: Browser) -> None:
    for other in ("https://evil.example", None):
        given = query_of(await browser.consent(await browser.begin()))
        del given["iss"]
        query = urlencode(given | ({"iss": other} if other else {}))
        answer = await browser.get(f"/auth/callback?{query}", headers={})
        assert (answer.status_code, answer.json()["error"]) == (400, "other_provider")


async def test_a_state_twice_is_none(browser: Browser) -> None:
    callback = await browser.consent(await browser.begin())
    answer = await browser.get(f"{callback}&state=other", headers={})
    assert (answer.status_code, answer.json()["field"]) == (400, "state")


async def test_what_the_provider_refuses_is_told_in_our_words(browser: Browser) -> None:
    callback = await browser.consent(await browser.begin(), deny="1")
    answer = await browser.get(callback)
    assert answer.status_code == 400 and "text/html" in answer.headers["content-type"]
    assert "did not let you in" in answer.text and "access_denied" in answer.text
    assert "default-src" in answer.headers["content-security-policy"] and browser.cookie is None


async def test_an_error_shows_nothing_that_a_stranger_wrote(browser: Browser) -> None:
    state = query_of(await browser.begin())["state"]
    bad = {"error": "<script>alert(1)</script>", "error_description": "call 0900", "state": state}
    bad["iss"] = str(browser.provider.base_url).rstrip("/")
    answer = await browser.get(f"/auth/callback?{urlencode(bad)}")
    assert answer.status_code == 400 and "<script" not in answer.text and "0900" not in answer.text
    answer = await browser.get(f"/auth/callback?{urlencode({**bad, 'state': 'forged'})}")
    assert answer.status_code == 400 and "<script" not in answer.text and "0900" not in answer.text


async def test_a_cookie_that_was_planted_is_never_adopted(world: World, replica: ProxyLogin) -> None:
    planted = "P" * 43
    browser = await world.browser(replica, planted)
    assert (await browser.session()).status_code == 401
    browser.site.cookies.clear()
    browser.site.cookies.set("kdcube_login", planted, domain="127.0.0.1")
    answer = await browser.sign_in()
    assert answer.status_code == 303
    assert all(planted not in each for each in answer.headers.get_list("set-cookie"))
    assert (await (await world.browser(replica, planted)).session()).status_code == 401


async def test_signing_in_anew_ends_the_login_before(world: World, replica: ProxyLogin, browser: Browser) -> None:
    first = await browser.signed_in("alice")
    second = await browser.signed_in("alice")
    assert first != second
    old = await (await world.browser(replica, first)).session()
    assert old.status_code == 401 and "anew" in old.json()["message"]
    assert (await browser.session()).json()["signed_in"]


async def test_two_windows_sign_in_at_once(browser: Browser) -> None:
    one, two = await browser.begin("/one"), await browser.begin("/two")
    first = await browser.get(await browser.consent(one))
    second = await browser.get(await browser.consent(two))
    assert [each.headers["location"][-4:] for each in (first, second)] == ["/one", "/two"]
    assert (await browser.session()).json()["signed_in"]


async def test_a_provider_that_is_away_is_an_honest_503(world: World) -> None:
    replica = await world.replica()
    browser = await world.browser(replica)
    with world.provider.answering(503):
        answer = await browser.get("/auth/login")
    assert answer.status_code == 503 and "cannot be reached" in answer.text and answer.headers["retry-after"]
    callback = await (await world.browser(replica)).get("/auth/callback?state=a&code=b", headers={})
    assert callback.status_code == 400


async def test_too_many_sign_ins_of_one_address_wait(world: World) -> None:
    few = '{"tenant": "t", "project": "p", "limits": {"max_sign_ins_per_address": 1}}'
    replica = await world.replica(KDCUBE_TRUSTED_PROXIES="127.0.0.0/8", GATEWAY_CONFIG_JSON=few)
    browser = await world.browser(replica)
    await browser.begin()
    for _ in range(3):
        answer = await browser.get("/auth/login", headers={"X-Forwarded-For": "192.0.2.7"})
    assert answer.status_code == 429 and answer.json()["error"] == "rate_limit_sign_ins"
    assert (await browser.get("/auth/login", headers={"X-Forwarded-For": "192.0.2.8"})).status_code == 303


async def test_while_no_tokens_are_given_nobody_waits_and_no_sign_in_is_lost(
    world: World, replica: ProxyLogin, browser: Browser
) -> None:
    callbacks = [await browser.consent(await browser.begin()) for _ in range(4)]
    world.provider.requests()
    with world.provider.answering(503):
        for callback in callbacks:
            answer = await browser.get(callback, headers={})
            assert (answer.status_code, answer.json()["error"]) == (503, "identity_provider_unavailable")
            assert answer.headers["retry-after"]
        assert world.provider.requests()["/token"] == 3  # the breaker is open by then

    async def signed_in() -> bool:  # the breaker tries again by the next who asks, after half a second
        return (await browser.get(callbacks[3], headers={})).status_code == 303

    await eventually(signed_in, "a sign-in that was not tried is good when the provider is back")
    assert (await browser.session()).json()["signed_in"]


async def test_how_many_may_sign_in_is_changed_while_it_runs(world: World) -> None:
    replica = await world.replica(KDCUBE_TRUSTED_PROXIES="127.0.0.0/8")
    browser = await world.browser(replica)
    document = {"tenant": "t", "project": "p", "limits": {"max_sign_ins_per_address": 1}}
    config = resolved(document, ("t", "p")).config
    configs = GatewayConfigs(world.database, Audit(world.database, "t", "p"), "t", "p")
    await configs.add(
        after=0, document=document, checksum=config.checksum, actor=Actor("test"), origin="patch", reason=None
    )
    await world.valkey.call("PUBLISH", Keys("t", "p").config_channel, "1")

    async def follows() -> bool:  # it applies what it hears by itself, and tells nobody
        return (await browser.get("/health")).json()["config_checksum"] == config.checksum

    await eventually(follows, "the change is in force")
    statuses = [
        (await browser.get("/auth/login", headers={"X-Forwarded-For": "192.0.2.7"})).status_code for _ in range(3)
    ]
    assert statuses == [303, 303, 429]


async def test_administrators_see_how_it_does(world: World, replica: ProxyLogin) -> None:
    async def reported() -> dict[str, Any] | None:  # its first report is written behind its start
        return next((one.report for one in await Sources(world.valkey, Keys("t", "p")).read()), None)

    report = await eventually(reported, "it has reported")
    assert report is not None and report["component"] == "proxylogin" and report["about"]["config_checksum"]
    guarded = {gauge["labels"]["dependency"] for gauge in report["gauges"] if gauge["name"] == "breaker_open"}
    assert guarded == {"postgres", "valkey", "identity_provider", "identity_provider_tokens"}


async def test_its_document_names_all_that_it_serves(browser: Browser, replica: ProxyLogin) -> None:
    document = (await browser.get("/auth/openapi.json")).json()
    assert document["openapi"] == "3.1.0" and document["info"]["title"] == "KDCube proxylogin"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = await browser.site.request(method, path)
            assert str(answer.status_code) in operation["responses"], (method, path, answer.text)
            other = await browser.site.request("GET" if method == "post" else "POST", path)
            assert other.status_code == 405
    served = {route.path for route in _router(Mock(), Mock()).routes if isinstance(route, Route)}
    assert set(document["paths"]) == served

"""Signing out: here, at the provider, by the provider; and what attackers try with it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from kdcube.gateway.identity.logins import Login, LoginOver
from kdcube.protocol.ids import new_id

if TYPE_CHECKING:
    import httpx

    from conftest import Browser, World
    from kdcube.proxylogin.app import ProxyLogin

pytestmark = pytest.mark.anyio

EVENT = "http://schemas.openid.net/event/backchannel-logout"


async def test_a_user_signs_out_here_and_at_the_provider(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    assert isinstance(await world.resolver().resolve(cookie), Login)
    answer = await browser.sign_out()
    assert answer.status_code == 303
    place = answer.headers["location"]
    given = parse_qs(urlsplit(place).query)
    assert given["post_logout_redirect_uri"] == ["http://127.0.0.1:1/"] and given["id_token_hint"]
    deleted = [each for each in answer.headers.get_list("set-cookie") if each.startswith("kdcube_login=;")]
    assert "Max-Age=0" in deleted[0] and browser.cookie is None
    assert (await browser.session()).json() == {"signed_in": False}
    done = await browser.sign_out_at_provider(place)
    assert done.headers["location"].startswith("http://127.0.0.1:1/")
    assert "<form" in (await browser.provider.get(await browser.begin(), follow_redirects=True)).text  # asks again
    assert [(entry.actor, entry.details["by"]) for entry in await world.acts("login.ended")] == [
        ("alice", "signed_out")
    ]


async def test_a_stolen_cookie_is_worthless_after_that(world: World, replica: ProxyLogin, browser: Browser) -> None:
    cookie = await browser.signed_in()
    thief = await world.browser(replica, cookie)
    assert (await thief.session()).json()["signed_in"]
    assert isinstance(await world.resolver().resolve(cookie), Login)
    await browser.sign_out()
    assert (await thief.session()).status_code == 401
    assert await world.resolver().resolve(cookie) == LoginOver("signed_out")
    assert await world.row("tokens") is None


async def test_the_provider_forgets_the_refresh_token(world: World, browser: Browser) -> None:
    await browser.signed_in()
    world.provider.requests()
    await browser.sign_out()
    assert world.provider.requests()["/token/revocation"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Sec-Fetch-Site": "none", "Origin": ""},
        {"Sec-Fetch-Site": "", "Origin": "http://127.0.0.1:1.evil.example"},
        {"Sec-Fetch-Site": "", "Origin": ""},
    ],
)
async def test_no_other_site_signs_anybody_out(browser: Browser, headers: dict[str, str]) -> None:
    await browser.signed_in()
    answer = await browser.site.post("/auth/logout", headers={name: value for name, value in headers.items() if value})
    assert (answer.status_code, answer.json()["error"]) == (403, "cross_site")
    assert "set-cookie" not in answer.headers
    assert (await browser.session()).json()["signed_in"]


async def test_a_link_signs_nobody_out(browser: Browser) -> None:
    await browser.signed_in()
    assert (await browser.get("/auth/logout")).status_code == 405
    assert (await browser.session()).json()["signed_in"]


async def test_a_script_gets_no_token(browser: Browser) -> None:
    await browser.signed_in()
    answer = await browser.sign_out(**{"Sec-Fetch-Mode": "cors"})
    assert answer.status_code == 200 and not answer.json()["signed_in"]
    assert "eyJ" not in answer.text and "client_id=" in answer.json()["provider_logout_url"]


async def test_no_token_leaves_the_server(world: World, browser: Browser, replica: ProxyLogin) -> None:
    """Of all answers and log lines of a whole life, the ID token is in one: the way to the provider's own page."""
    answers: list[httpx.Response] = []

    async def note(answer: httpx.Response) -> None:
        answers.append(answer)

    browser.site.event_hooks = {"response": [note]}
    keeping = replica.refresher._keeping
    tokens: list[str] = []

    async def kept() -> None:
        row = await world.database.fetch_one("select cookie_hash, tokens from logins")
        assert row is not None
        found = keeping.tokens(row["cookie_hash"], row["tokens"])
        tokens.extend(token for token in (found.access_token, found.refresh_token, found.id_token) if token)

    with capture_logs() as logged:
        await browser.signed_in("paula")
        await kept()
        await browser.session()
        world.clock.ahead_s += 3_550
        await replica.refresher.refresh_due()
        while await world.row("generation") == 0:
            await asyncio.sleep(0)
        await kept()
        await browser.session()
        await browser.get("/auth/callback?code=x&state=y")
        await browser.sign_out()
    assert len(set(tokens)) == 5  # two of access, two of refresh, and the ID token of the sign-in
    id_token = tokens[2]
    said = [*map(str, logged), *(str(each.url) for each in answers), *(each.text for each in answers)]
    said += [str(each.headers) for each in answers[:-1]]
    assert all(token not in text for token in tokens for text in said)
    last = str(answers[-1].headers)
    assert id_token in last and all(token not in last for token in tokens if token != id_token)


async def test_signing_out_twice_is_fine(browser: Browser) -> None:
    assert (await browser.sign_out()).status_code == 303
    cookie = await browser.signed_in()
    await browser.sign_out()
    browser.site.cookies.set("kdcube_login", cookie, domain="127.0.0.1")
    assert (await browser.sign_out()).status_code == 303


async def test_it_ends_unused_and_at_last(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    resolver = world.resolver()
    for _ in range(3):
        world.clock.ahead_s += 7 * 3600
        await world.database.fetch("update logins set confirmed_ms = null, refresh_ms = null")
        assert isinstance(await resolver.resolve(cookie), Login)
    world.clock.ahead_s += 2 * 3600 + 3599
    assert isinstance(await resolver.resolve(cookie), Login)
    world.clock.ahead_s += 2
    assert await resolver.resolve(cookie) == LoginOver("expired")
    assert "as long as that lasts" in (await browser.session()).json()["message"]


async def test_asking_who_is_signed_in_is_no_use_of_it(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    await world.database.fetch("update logins set confirmed_ms = null, refresh_ms = null")
    for _ in range(2):
        world.clock.ahead_s += 4 * 3600 - 10
        assert (await browser.session()).json()["signed_in"]
    world.clock.ahead_s += 30
    assert (await browser.session()).status_code == 401
    assert await world.resolver().resolve(cookie) == LoginOver("idle")


async def test_losing_valkey_signs_nobody_out_and_nobody_in(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    resolver = world.resolver()
    assert isinstance(await resolver.resolve(cookie), Login)
    await world.valkey.call("FLUSHALL")
    assert isinstance(await resolver.resolve(cookie), Login)
    await browser.sign_out()
    await world.valkey.call("FLUSHALL")
    assert await resolver.resolve(cookie) == LoginOver("signed_out")


async def test_what_somebody_wrote_into_valkey_is_not_believed(world: World, browser: Browser) -> None:
    admin = await browser.signed_in("root")
    await world.resolver().resolve(admin)
    (key,) = await world.valkey.call("KEYS", "*:login:*")
    value = await world.valkey.call("GET", key)
    other = await (await world.browser(await world.replica())).signed_in("bob")
    await world.resolver().resolve(other)
    (bobs,) = [each for each in await world.valkey.call("KEYS", "*:login:*") if each != key]
    for forged in (value, b"a" + value, b"a", b""):
        await world.valkey.call("SET", bobs, forged)
        found = await world.resolver().resolve(other)
        assert isinstance(found, Login) and found.identity.user_id == "bob"


async def test_an_end_is_never_covered_by_a_look_up_that_was_under_way(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    resolver = world.resolver()
    cache, fill, reached, go_on = resolver._cache, resolver._cache.fill, asyncio.Event(), asyncio.Event()

    async def late(*args: Any) -> None:
        reached.set()
        await go_on.wait()
        await fill(*args)

    cache.fill = late  # type: ignore[method-assign]
    looking = asyncio.create_task(resolver.resolve(cookie))
    await reached.wait()
    await browser.sign_out()
    go_on.set()
    await looking
    assert await world.resolver().resolve(cookie) == LoginOver("signed_out")


# --- by the provider --------------------------------------------------------------------------------------------------


def logout_token(world: World, key: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    given = {"aud": world.client.client_id, "sub": "alice", "jti": new_id(), "iat": now, "exp": now + 120}
    given |= {"events": {EVENT: {}}, "client_id": None, **claims}
    return world.provider.mint(given, header={"typ": "logout+jwt"}, key=key)


async def tell(browser: Browser, token: str, **more: str) -> httpx.Response:
    browser.site.cookies.clear()
    return await browser.site.post("/auth/backchannel-logout", data={"logout_token": token, **more})


async def test_the_provider_signs_a_user_out(world: World, replica: ProxyLogin, browser: Browser) -> None:
    alice, again = await browser.signed_in(), await (await world.browser(replica)).signed_in()
    bob = await (await world.browser(replica)).signed_in("bob")
    resolver = world.resolver()
    for cookie in (alice, again, bob):
        assert isinstance(await resolver.resolve(cookie), Login)
    assert (await tell(browser, logout_token(world))).status_code == 200
    assert await resolver.resolve(alice) == await resolver.resolve(again) == LoginOver("provider")
    assert isinstance(await resolver.resolve(bob), Login)
    assert {entry.actor for entry in await world.acts("login.ended")} == {"system:provider"}


async def test_the_provider_signs_a_session_out(world: World, replica: ProxyLogin, browser: Browser) -> None:
    cookie, other = await browser.signed_in(), await (await world.browser(replica)).signed_in()
    await world.database.fetch("update logins set provider_session = encode(cookie_hash, 'hex')")
    rows = await world.database.fetch("select provider_session from logins order by opened_ms")
    assert (await tell(browser, logout_token(world, sub=None, sid=rows[0][0]))).status_code == 200
    assert await world.resolver().resolve(cookie) == LoginOver("provider")
    assert isinstance(await world.resolver().resolve(other), Login)
    assert (await tell(browser, logout_token(world, sub="bob", sid=rows[1][0]))).status_code == 200
    assert isinstance(await world.resolver().resolve(other), Login)  # it is not bob's


@pytest.mark.parametrize(
    ("key", "claims"),
    [
        ("none", {}),
        ("foreign", {}),
        ("RS256", {"aud": "another client"}),
        ("RS256", {"aud": None}),
        ("RS256", {"iss": "https://evil.example"}),
        ("RS256", {"events": None}),
        ("RS256", {"events": {"http://schemas.openid.net/event/other": {}}}),
        ("RS256", {"events": EVENT}),
        ("RS256", {"nonce": "n"}),
        ("RS256", {"jti": None}),
        ("RS256", {"sub": None}),
        ("RS256", {"sid": ["a"]}),
        ("RS256", {"exp": None}),
        ("RS256", {"exp": int(time.time()) - 3600}),
        ("RS256", {"iat": int(time.time()) - 3600}),
        ("RS256", {"iat": int(time.time()) + 3600}),
        ("RS256", {"iat": None}),
    ],
)
async def test_what_is_no_logout_token_signs_nobody_out(
    world: World, browser: Browser, key: str, claims: dict[str, Any]
) -> None:
    cookie = await browser.signed_in()
    answer = await tell(browser, logout_token(world, key, **claims))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def test_other_tokens_and_bodies_sign_nobody_out(world: World, browser: Browser) -> None:
    cookie = await browser.signed_in()
    access = world.provider.mint({"aud": world.client.client_id})
    for body in (f"logout_token={access}", "logout_token=", "", "x", "logout_token=a&logout_token=b", "\xff" * 9):
        answer = await browser.site.post("/auth/backchannel-logout", content=body)
        assert answer.status_code == 400
    big = await browser.site.post("/auth/backchannel-logout", content=b"logout_token=" + b"a" * 70_000)
    assert big.status_code == 413
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def test_a_logout_token_counts_once(world: World, browser: Browser) -> None:
    token = logout_token(world)
    assert (await tell(browser, token)).status_code == 200
    cookie = await browser.signed_in()
    assert (await tell(browser, token)).status_code == 400
    assert isinstance(await world.resolver().resolve(cookie), Login)

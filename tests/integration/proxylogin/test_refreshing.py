"""Logins are refreshed by one refresher at a time, and the provider's rotating tokens are never lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.logins import Login, LoginOver
from kdcube.protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from conftest import Browser, World
    from kdcube.proxylogin.app import ProxyLogin

pytestmark = pytest.mark.anyio

DUE_S = 3_550
"""Of an access token that lasts for an hour; a refresh is due a minute before."""


async def due(world: World, browser: Browser, name: str = "alice") -> str:
    """Signs a user in, and lets the time come. The requests so far are forgotten."""
    cookie = await browser.signed_in(name)
    world.clock.ahead_s += DUE_S
    world.provider.requests()
    return cookie


async def test_one_of_two_replicas_refreshes_it_once(world: World, browser: Browser, replica: ProxyLogin) -> None:
    other = await world.replica(INSTANCE_ID="other")
    cookie = await due(world, browser)
    await asyncio.gather(*(each.refresher.refresh_due() for each in (replica, other) * 5))
    while await world.row("generation") == 0:  # one of the services' own loops may have it
        await asyncio.sleep(0)
    assert world.provider.requests()["/token"] == 1
    world.clock.ahead_s += DUE_S
    await asyncio.gather(*(each.refresher.refresh_due() for each in (replica, other) * 5))
    while await world.row("generation") == 1:
        await asyncio.sleep(0)
    assert world.provider.requests()["/token"] == 1
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def test_roles_follow_the_provider(world: World, browser: Browser, replica: ProxyLogin) -> None:
    cookie = await due(world, browser, "carla")
    before = await world.resolver().resolve(cookie)
    world.provider.user("carla", groups=["kdcube:role:paid"])
    await replica.refresher.refresh_due()
    while await world.row("generation") == 0:
        await asyncio.sleep(0)
    after = await world.resolver().look(cookie)
    assert isinstance(before, Login) and before.identity.roles == ()
    assert isinstance(after, Login) and after.identity.roles == ("kdcube:role:paid",)


async def test_whom_the_provider_refuses_is_signed_out(world: World, browser: Browser, replica: ProxyLogin) -> None:
    cookie = await browser.signed_in("alice")
    assert isinstance(await world.resolver().resolve(cookie), Login)  # cached by now
    world.provider.revoke("alice")
    world.clock.ahead_s += DUE_S
    await replica.refresher.refresh_due()
    while await world.row("ended_by") is None:
        await asyncio.sleep(0)
    assert await world.row("ended_by") == "refused" and await world.row("tokens") is None
    while isinstance(over := await world.resolver().resolve(cookie), Login):
        await asyncio.sleep(0)
    assert over == LoginOver("refused")
    assert [entry.details["by"] for entry in await world.acts("login.ended")] == ["refused"]


async def test_a_provider_that_is_away_signs_nobody_out(world: World, browser: Browser, replica: ProxyLogin) -> None:
    with world.provider.answering(503):
        cookie = await browser_of(world, browser)
        await replica.refresher.refresh_due()
        while await world.row("refresh_failures") == 0:
            await asyncio.sleep(0)
        assert isinstance(await world.resolver().resolve(cookie), Login)
        world.clock.ahead_s += 50 + 900  # its last word does not count any more
        with pytest.raises(Unavailable) as caught:
            await world.resolver().resolve(cookie)
        assert caught.value.error == "sign_in_unconfirmed"
    await replica.refresher.refresh_due()
    while await world.row("generation") == 0:
        await asyncio.sleep(0)
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def browser_of(world: World, browser: Browser) -> str:
    """Signed in and due, although the provider answers nothing now."""
    with pytest.MonkeyPatch.context():
        world.provider._order("answer", status=None)
        cookie = await due(world, browser)
        world.provider._order("answer", status=503)
    return cookie


async def test_new_tokens_are_stored_however_long_that_takes(
    world: World, browser: Browser, replica: ProxyLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider has rotated the refresh token when PostgreSQL goes away: the old one used again would end it all."""
    logins = replica.refresher._logins
    store, failed = logins.store_refreshed, 0

    async def failing(*args: object, **more: object) -> bool:
        nonlocal failed
        failed += 1
        if failed < 4:
            raise StoreUnavailable("postgres", "away")
        return await store(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(logins, "store_refreshed", failing)
    cookie = await due(world, browser)
    await replica.refresher.refresh_due()
    while await world.row("generation") == 0:
        await asyncio.sleep(0)
    assert failed == 4 and world.provider.requests()["/token"] == 1
    world.clock.ahead_s += DUE_S
    await replica.refresher.refresh_due()
    while await world.row("generation") == 1:
        await asyncio.sleep(0)
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def test_a_drain_waits_for_what_is_under_way(world: World, browser: Browser, replica: ProxyLogin) -> None:
    await due(world, browser)
    refresh = asyncio.create_task(replica.refresher.refresh_due())
    while await world.row("refresher") is None and await world.row("generation") == 0:
        await asyncio.sleep(0)
    await replica.drain()
    await refresh
    assert await world.row("generation") == 1
    assert world.provider.requests()["/token"] == 1


async def test_what_an_older_key_sealed_is_sealed_anew(world: World, browser: Browser, replica: ProxyLogin) -> None:
    cookie = await browser.signed_in()
    before = await world.row("sealed_by")
    new = "bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm4="
    both = await world.replica(PROXYLOGIN_ENCRYPTION_KEYS=f"{new},{world.variables['PROXYLOGIN_ENCRYPTION_KEYS']}")
    await both.refresher.tidy()
    assert await world.row("sealed_by") != before
    await world.valkey.call("FLUSHALL")
    assert isinstance(await world.resolver(new).resolve(cookie), Login)
    only_new = await world.replica(PROXYLOGIN_ENCRYPTION_KEYS=new, INSTANCE_ID="later")
    await replica.drain()
    await both.drain()
    world.clock.ahead_s += DUE_S
    await only_new.refresher.refresh_due()
    while await world.row("generation") == 0:
        await asyncio.sleep(0)


async def test_a_lost_key_loses_the_login_but_no_service(world: World, browser: Browser, replica: ProxyLogin) -> None:
    cookie = await browser.signed_in()
    await world.valkey.call("FLUSHALL")
    new = "bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm4="
    assert await world.resolver(new).resolve(cookie) == LoginOver("unknown")
    other = await world.replica(PROXYLOGIN_ENCRYPTION_KEYS=new)
    await other.refresher.tidy()
    assert isinstance(await world.resolver().resolve(cookie), Login)


async def test_a_row_that_was_copied_opens_nothing(world: World, browser: Browser) -> None:
    """Whoever can write to PostgreSQL cannot make an administrator of himself with an administrator's row."""
    await browser.signed_in("root")
    stranger = await world.browser(await world.replica())
    cookie = await stranger.signed_in("bob")
    await world.database.fetch(
        "update logins l set claims = r.claims, tokens = r.tokens from logins r "
        "where l.user_id = 'bob' and r.user_id = 'root'"
    )
    assert await world.resolver().resolve(cookie) == LoginOver("unknown")


async def test_what_is_long_over_is_forgotten(world: World, browser: Browser, replica: ProxyLogin) -> None:
    await browser.signed_in()
    world.clock.ahead_s += 86_400 + 7 * 86_400 - 60
    await replica.refresher.tidy()
    assert await world.row("count(*)") == 1
    world.clock.ahead_s += 120
    await replica.refresher.tidy()
    assert await world.row("count(*)") == 0
    assert not await world.database.fetch("select from spent")

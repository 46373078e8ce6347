"""Signing in at a user pool of Amazon Cognito, in its shapes: no real one is at hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.openid.cognito import CLIENT, POOL, SECRET, SUB, UserPool, open_user_pool
from tests.openid.provider import OpenIdProvider

from kdcube.gateway.identity.logins import Login

if TYPE_CHECKING:
    from conftest import Browser, World
    from kdcube.proxylogin.app import ProxyLogin

pytestmark = pytest.mark.anyio

SITE = "http://127.0.0.1:1"
DUE_S = 3_550


@pytest.fixture
async def pool(openid_provider: OpenIdProvider) -> AsyncGenerator[UserPool]:
    async with open_user_pool(openid_provider) as pool:
        yield pool


@pytest.fixture
async def replica(world: World, pool: UserPool) -> ProxyLogin:
    return await world.replica(
        AUTH_PROVIDER="cognito",
        COGNITO_USER_POOL_ID=POOL,
        COGNITO_APP_CLIENT_ID=CLIENT,
        COGNITO_ISSUER=pool.issuer,
        OIDC_CLIENT_SECRET=SECRET,
        OIDC_SCOPES="openid email profile",
    )


async def signed_in(browser: Browser) -> str:
    """The cookie."""
    async with httpx.AsyncClient() as elsewhere:
        back = (await elsewhere.get(await browser.begin())).headers["location"]
    answer = await browser.get(back.removeprefix(SITE))
    assert (answer.status_code, answer.headers["location"]) == (303, f"{SITE}/c/1"), answer.text
    assert browser.cookie
    return browser.cookie


async def test_a_user_signs_in_is_refreshed_and_signs_out(
    world: World, replica: ProxyLogin, browser: Browser, pool: UserPool
) -> None:
    cookie = await signed_in(browser)
    assert (await browser.session()).json()["user"] == {
        "id": SUB,
        "username": "paula",
        "email": "paula@example.org",
        "roles": ["kdcube:role:paid"],
        "user_type": "paid",
    }
    for groups in (["kdcube:role:admin"], []):  # twice by one refresh token, which does not rotate
        pool.groups = groups
        world.clock.ahead_s += DUE_S
        generation = await world.row("generation")
        await replica.refresher.refresh_due()
        while await world.row("generation") == generation:  # the service's own loop may have it
            await replica.refresher.refresh_due()
        login = await world.resolver().look(cookie)
        assert isinstance(login, Login) and login.identity.roles == tuple(groups)

    by_script = (await browser.sign_out(**{"Sec-Fetch-Mode": "cors"})).json()["provider_logout_url"]
    assert len(pool.revoked) == 1
    await signed_in(browser)
    by_form = (await browser.sign_out()).headers["location"]
    assert by_script == by_form and "id_token" not in by_form
    assert by_form.startswith(f"{pool.domain}/logout?")
    assert parse_qs(urlsplit(by_form).query) == {"client_id": [CLIENT], "logout_uri": [f"{SITE}/"]}
    async with httpx.AsyncClient() as elsewhere:
        answer = await elsewhere.get(by_form)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{SITE}/")


async def test_without_an_id_token_roles_follow_the_access_token(
    world: World, replica: ProxyLogin, browser: Browser, pool: UserPool
) -> None:
    cookie = await signed_in(browser)
    pool.gives_id_tokens, pool.groups = False, []
    world.clock.ahead_s += DUE_S
    while await world.row("generation") == 0:
        await replica.refresher.refresh_due()
    login = await world.resolver().look(cookie)
    assert isinstance(login, Login) and login.identity.roles == ()
    assert (login.identity.user_id, login.identity.email) == (SUB, "paula@example.org")

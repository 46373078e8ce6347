"""proxylogin on real stores and with a real provider, in this process; browsers that keep cookies."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.openid.provider import OpenIdClient, OpenIdProvider

from kdcube.config.load import load
from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.gateway.identity.logins import LoginResolver
from kdcube.gateway.identity.sealing import Keyring
from kdcube.postgres.audit import Audit, Entry
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.logins import Logins
from kdcube.proxylogin.app import ProxyLogin, open_proxylogin
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.logins import LoginCache

SITE = "http://127.0.0.1:1"
KEY, OTHER_KEY = (base64.b64encode(each * 32).decode() for each in (b"k", b"o"))
COOKIE = "kdcube_login"
HTML = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
OWN = {**HTML, "Sec-Fetch-Site": "same-origin", "Origin": SITE}


class Clock:
    """Of the service; the provider's goes on as it does."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Browser:
    """One user's: at this site, and at the provider. It never follows a redirect by itself."""

    def __init__(self, site: httpx.AsyncClient, provider: httpx.AsyncClient) -> None:
        self.site = site
        self.provider = provider

    @property
    def cookie(self) -> str | None:
        return self.site.cookies.get(COOKIE)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.site.get(path, **{"headers": HTML, **more})

    async def begin(self, return_to: str = "/c/1") -> str:
        """At the site; where it sends us."""
        answer = await self.get("/auth/login", params={"return_to": return_to})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def consent(self, url: str, name: str = "alice", **form: str) -> str:
        """At the provider; the path and query that it sends us back to."""
        answer = await self.provider.get(url)
        while not (location := answer.headers.get("location", "")).startswith(SITE):
            assert location, f"{answer.status_code} {answer.text}"
            answer = await self.provider.get(location)
            if "<form" in answer.text:
                given = form or {"name": name, "password": f"{name}-password"}
                answer = await self.provider.post(location, data=given)
        return location.removeprefix(SITE)

    async def sign_in(self, name: str = "alice", return_to: str = "/c/1") -> httpx.Response:
        """All of it; the answer of the callback."""
        return await self.get(await self.consent(await self.begin(return_to), name))

    async def signed_in(self, name: str = "alice") -> str:
        """The cookie."""
        assert (await self.sign_in(name)).status_code == 303
        assert self.cookie
        return self.cookie

    async def session(self) -> httpx.Response:
        return await self.get("/auth/session")

    async def sign_out(self, **headers: str) -> httpx.Response:
        return await self.site.post("/auth/logout", headers={**OWN, **headers})

    async def sign_out_at_provider(self, url: str) -> httpx.Response:
        """Where signing out here sends us; pressing its button."""
        form = await self.provider.get(url)
        action = re.search(r'action="([^"]+)"', form.text)
        xsrf = re.search(r'name="xsrf" value="([^"]+)"', form.text)
        assert action and xsrf, form.text
        return await self.provider.post(action[1], data={"xsrf": xsrf[1], "logout": "yes"})


class World:
    """Replicas of proxylogin, the provider, browsers."""

    def __init__(
        self, provider: OpenIdProvider, client: OpenIdClient, stack: AsyncExitStack, settings: dict[str, str]
    ) -> None:
        self.provider = provider
        self.client = client
        self.clock = Clock()
        self.variables = settings
        self.database: Database
        self.valkey: Connection
        self._stack = stack

    async def replica(self, **variables: str) -> ProxyLogin:
        settings = load(ProxyLoginSettings, {**self.variables, **variables})
        return await self._stack.enter_async_context(open_proxylogin(settings, clock=self.clock))

    async def browser(self, replica: ProxyLogin, cookie: str | None = None) -> Browser:
        transport = httpx.ASGITransport(replica, raise_app_exceptions=False)
        site = await self._stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=SITE))
        elsewhere = await self._stack.enter_async_context(httpx.AsyncClient(base_url=self.provider.issuer, timeout=30))
        if cookie is not None:
            site.cookies.set(COOKIE, cookie, domain="127.0.0.1")
        return Browser(site, elsewhere)

    @property
    def logins(self) -> Logins:
        return Logins(self.database, Audit(self.database, "t", "p"), "t", "p")

    def resolver(self, *keys: str) -> LoginResolver:
        """As any service has one."""
        ring = Keyring([base64.b64decode(key) for key in keys or (KEY,)])
        return LoginResolver(self.logins, LoginCache(self.valkey, Keys("t", "p")), ring, clock=self.clock)

    async def acts(self, act: str) -> list[Entry]:
        return list((await Audit(self.database, "t", "p").list(act=act)).items)

    async def row(self, column: str) -> Any:
        """Of the only login."""
        row = await self.database.fetch_one(f"select {column} as it from logins")
        assert row is not None
        return row["it"]


@asynccontextmanager
async def open_world(
    valkey_url: str, database_url: str, provider: OpenIdProvider, **metadata: Any
) -> AsyncGenerator[World]:
    client = provider.client(f"{SITE}/auth/callback", post_logout_redirect_uris=[f"{SITE}/"], **metadata)
    variables = {
        "GATEWAY_CONFIG_JSON": '{"tenant": "t", "project": "p"}',
        "REDIS_URL": valkey_url,
        "DATABASE_URL": database_url,
        "AUTH_PROVIDER": "oidc",
        "OIDC_ISSUER": provider.issuer,
        "OIDC_AUDIENCE": provider.audience,
        "OIDC_CLIENT_ID": client.client_id,
        "OIDC_CLIENT_SECRET": client.client_secret or "",
        "OIDC_SCOPES": "openid profile email groups",
        "PROXYLOGIN_ENCRYPTION_KEYS": KEY,
        "PROXYLOGIN_PUBLIC_URL": SITE,
        "LOG_LEVEL": "debug",
    }
    async with AsyncExitStack() as stack:
        world = World(provider, client, stack, variables)
        world.database = await stack.enter_async_context(open_database(database_url, max_size=2, name="test"))
        world.valkey = await stack.enter_async_context(open_connection(valkey_url, name="test"))
        yield world


@pytest.fixture
async def world(valkey_url: str, database_url: str, openid_provider: OpenIdProvider) -> AsyncGenerator[World]:
    async with open_world(valkey_url, database_url, openid_provider) as world:
        yield world


@pytest.fixture
async def replica(world: World) -> ProxyLogin:
    return await world.replica()


@pytest.fixture
async def browser(world: World, replica: ProxyLogin) -> Browser:
    return await world.browser(replica)

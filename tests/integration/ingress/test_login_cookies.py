"""The cookie of proxylogin, as ingress takes it: by itself, and never in silence for anonymous."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused

from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.logins import LoginResolver, encode_claims, hash_of, new_cookie, seal_claims
from kdcube.gateway.identity.proofs import ProofWatch
from kdcube.gateway.identity.sealing import Keyring
from kdcube.postgres.api_keys import StoredKeys
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import open_database
from kdcube.postgres.logins import Logins, NewLogin
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.logins import LoginCache

pytestmark = pytest.mark.anyio

KEY = b"k" * 32
SITE = "https://chat.example.org"
NAME = "__Host-kdcube_login"
SCOPE = ("local", "main")
ACTOR = Actor("test")


class SignedIn:
    """Logins as proxylogin writes them."""

    def __init__(self, logins: Logins, keys: StoredKeys, cache: LoginCache) -> None:
        self.logins = logins
        self.keys = keys
        self.cache = cache
        self.ring = Keyring([KEY])

    async def open(self, user_id: str = "carla", roles: tuple[str, ...] = ("kdcube:role:paid",)) -> str:
        """The cookie."""
        cookie, now_ms = new_cookie(), int(time.time() * 1000)
        identity = Identity(user_id, user_id.title(), f"{user_id}@example.org", roles)
        await self.logins.open(
            NewLogin(
                cookie_hash=hash_of(cookie),
                login_id=secrets.token_hex(12),
                user_id=user_id,
                issuer="https://id.example.org",
                provider_session=None,
                claims=seal_claims(self.ring, hash_of(cookie), encode_claims(identity)),
                tokens=b"",
                sealed_by=self.ring.current,
                opened_ms=now_ms,
                idle_ms=3_600_000,
                expires_ms=now_ms + 86_400_000,
                confirmed_ms=None,
                refresh_ms=None,
            ),
            ACTOR,
        )
        return cookie

    async def end(self, cookie: str, *, cached: bool = True) -> None:
        await self.logins.end(hash_of(cookie), int(time.time() * 1000), "signed_out", ACTOR)
        if cached:
            await self.cache.end([hash_of(cookie)], "signed_out")

    @property
    def resolver(self) -> LoginResolver:
        return LoginResolver(self.logins, self.cache, self.ring)


@pytest.fixture
async def signed_in(valkey_url: str, database_url: str) -> Any:
    async with open_database(database_url, name="test") as database, open_connection(valkey_url, name="test") as valkey:
        audit = Audit(database, *SCOPE)
        stored = Logins(database, audit, *SCOPE), StoredKeys(database, audit, *SCOPE)
        yield SignedIn(*stored, LoginCache(valkey, Keys(*SCOPE)))


@pytest.fixture
async def site(bench_with: Any) -> Any:
    return await bench_with(PROXYLOGIN_ENCRYPTION_KEYS=base64.b64encode(KEY).decode(), PROXYLOGIN_PUBLIC_URL=SITE)


def with_cookie(cookie: str, name: str = NAME) -> dict[str, str]:
    return {"Cookie": f"{name}={cookie}"}


async def test_ingress_knows_the_user_of_the_cookie(site: Any, signed_in: SignedIn) -> None:
    client = await site.client()
    told = (await client.get("/profile", headers=with_cookie(await signed_in.open()))).json()
    assert (told["user_id"], told["username"], told["user_type"]) == ("carla", "Carla", "paid")
    assert told["roles"] == ["kdcube:role:paid"]
    answer = await client.post("/sse/chat", json=body(), headers=with_cookie(await signed_in.open("dora")))
    assert answer.status_code == 202 and answer.json()["user_type"] == "paid"


async def test_a_token_goes_before_the_cookie(site: Any, signed_in: SignedIn) -> None:
    client = await site.client("alice-token")
    told = (await client.get("/profile", headers=with_cookie(await signed_in.open()))).json()
    assert told["user_id"] == "alice"


async def test_a_login_that_is_over_is_told(site: Any, signed_in: SignedIn) -> None:
    client = await site.client()
    for cached in (True, False):
        cookie = await signed_in.open()
        await signed_in.end(cookie, cached=cached)
        for answer in (
            await client.get("/profile", headers=with_cookie(cookie)),
            await client.post("/sse/chat", json=body(), headers=with_cookie(cookie)),
            await client.get("/sse/stream", headers=with_cookie(cookie)),
        ):
            told = refused(answer, 401, "login_over")
            assert "signed out" in told["message"] and "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["A" * 43, "short", "", "../../etc", "a" * 9_000, "A" * 42 + "é"])
async def test_a_cookie_that_nobody_gave_is_no_login(site: Any, cookie: str) -> None:
    client = await site.client()
    answer = await client.get("/profile", headers={"Cookie": f"{NAME}={cookie}".encode()})
    if cookie:
        refused(answer, 401, "login_over")
    else:
        assert answer.json()["user_type"] == "anonymous"


async def test_the_name_that_others_could_set_counts_on_http_only(site: Any, signed_in: SignedIn) -> None:
    cookie = await signed_in.open()
    told = await (await site.client()).get("/profile", headers=with_cookie(cookie, "kdcube_login"))
    assert told.json()["user_type"] == "anonymous"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://other.example.org"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
    ],
)
async def test_another_page_does_not_act_by_the_login_cookie(
    site: Any, signed_in: SignedIn, headers: dict[str, str]
) -> None:
    client, cookie = await site.client(), await signed_in.open()
    refused(await client.post("/sse/chat", json=body(), headers={**with_cookie(cookie), **headers}), 403, "cross_site")


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin", "Origin": SITE}, {"Sec-Fetch-Site": "same-site", "Origin": SITE}, {}]
)
async def test_the_pages_of_the_site_do(site: Any, signed_in: SignedIn, headers: dict[str, str]) -> None:
    client, cookie = await site.client(), await signed_in.open()
    answer = await client.post("/sse/chat", json=body(), headers={**with_cookie(cookie), **headers})
    assert answer.status_code == 202


async def test_without_proxylogin_the_cookie_means_nothing(bench: Any, signed_in: SignedIn) -> None:
    told = await (await bench.client()).get("/profile", headers=with_cookie(await signed_in.open()))
    assert told.json()["user_type"] == "anonymous"


async def test_a_stream_ends_with_its_login(site: Any, signed_in: SignedIn) -> None:
    """Whoever has opened one with a stolen cookie does not read on."""
    streams = site.ingress._streams
    watch = ProofWatch(streams, signed_in.logins, signed_in.keys)
    mine, others = await signed_in.open(), await signed_in.open("dora")
    readers = [asyncio.create_task(read(site, cookie)) for cookie in (mine, others)]
    while streams.count < 2:
        await asyncio.sleep(0)
    await watch.look()
    assert streams.count == 2 and streams.logins == {hash_of(mine), hash_of(others)}
    await signed_in.end(mine)
    await watch.look()
    await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
    assert [reader.done() for reader in readers] == [True, False]
    assert streams.logins == {hash_of(others)}
    await signed_in.end(others)
    await watch.look()
    await asyncio.wait(readers)
    assert streams.count == 0


async def read(site: Any, cookie: str) -> None:
    """Until it ends, however that is."""
    with suppress(Exception):
        await (await site.client()).get("/sse/stream", headers=with_cookie(cookie))


async def test_somebody_elses_session_is_refused(site: Any, signed_in: SignedIn) -> None:
    client = await site.client()
    carla, dora = await signed_in.open("carla"), await signed_in.open("dora")
    session = (await client.get("/profile", headers=with_cookie(dora))).json()["session_id"]
    answer = await client.get("/profile", headers={**with_cookie(carla), "User-Session-ID": session})
    refused(answer, 403, "foreign_session")


async def test_a_completion_ends_with_its_login(site: Any, signed_in: SignedIn) -> None:
    streams = site.ingress._streams
    watch = ProofWatch(streams, signed_in.logins, signed_in.keys)
    cookie = await signed_in.open()
    client = await site.client()
    whole, stream = (asyncio.create_task(complete(client, cookie, streamed)) for streamed in (False, True))
    while streams.count < 2:
        await asyncio.sleep(0)
    await watch.look()
    assert streams.count == 2
    await signed_in.end(cookie)
    await watch.look()
    answer = await whole
    assert answer is not None and (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
    assert await stream is None  # cut: what had come is not taken for the whole
    assert len(await site.turns.unfinished()) == 2  # the turns go on


async def complete(client: Any, cookie: str, stream: bool) -> Any:
    """None when the answer was cut."""
    asked = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    with suppress(AssertionError):  # of the transport, which wants an answer to have an end
        return await client.post("/v1/chat/completions", json=asked, headers=with_cookie(cookie))


async def test_a_look_at_a_stream_leaves_nothing_behind(site: Any, signed_in: SignedIn) -> None:
    client, cookie = await site.client(), await signed_in.open()
    assert (await client.head("/sse/stream", headers=with_cookie(cookie))).status_code == 200
    assert site.ingress._streams.logins == set() and site.ingress._streams.count == 0

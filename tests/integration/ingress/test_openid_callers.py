"""Ingress behind a real OpenID provider: whose request is whose, and the places where tokens do not belong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from tests.integration.ingress.asking import body, refused, sent
from tests.openid.provider import OpenIdClient, OpenIdProvider, Tokens

pytestmark = pytest.mark.anyio


@dataclass
class Scene:
    bench: Any
    provider: OpenIdProvider
    client: OpenIdClient

    def tokens(self, name: str) -> Tokens:
        return self.provider.sign_in(self.client, name)

    async def ask(self, **request: Any) -> Any:
        """The profile, as a client without a past would ask for it."""
        cookies = request.pop("cookies", {})
        client = await self.bench.client()
        for name, value in cookies.items():
            client.cookies.set(name, value)
        return await client.get(request.pop("path", "/profile"), **request)

    async def who(self, **request: Any) -> str:
        response = await self.ask(**request)
        assert response.status_code == 200, response.text
        return response.json()["user_id"]


def headers(token: str | None = None, id_token: str | None = None) -> dict[str, Any]:
    given = {"Authorization": f"Bearer {token}" if token else None, "X-ID-Token": id_token}
    return {"headers": {name: value for name, value in given.items() if value is not None}}


@pytest.fixture
async def scene(bench_with: Any, openid_provider: OpenIdProvider) -> AsyncGenerator[Scene]:
    client = openid_provider.client()
    bench = await bench_with(
        AUTH_PROVIDER="oidc",
        OIDC_ISSUER=openid_provider.issuer,
        OIDC_CLIENT_ID=client.client_id,
        OIDC_AUDIENCE=openid_provider.audience,
    )
    yield Scene(bench, openid_provider, client)


async def test_roles_make_the_user_type(scene: Scene) -> None:
    for name, user_type in (("alice", "registered"), ("paula", "paid"), ("root", "privileged")):
        tokens = scene.tokens(name)
        told = (await scene.ask(**headers(tokens.access_token, tokens.id_token))).json()
        assert (told["user_id"], told["user_type"], told["email"]) == (name, user_type, f"{name}@example.org")
        turn = await sent(await scene.bench.client(tokens.access_token))
        assert turn["user_type"] == user_type


async def test_places_go_in_order_and_are_never_mixed(scene: Scene) -> None:
    alice, bob, root = (scene.tokens(name) for name in ("alice", "bob", "root"))
    cookies = {"__Secure-LATC": bob.access_token, "__Secure-LITC": bob.id_token}
    assert await scene.who(cookies=cookies) == "bob"
    assert await scene.who(cookies={"__Secure-LITC": bob.id_token}) == "bob"
    assert await scene.who(cookies=cookies, **headers(alice.access_token)) == "alice"
    assert await scene.who(cookies=cookies, **headers(None, root.id_token)) == "root"
    told = (await scene.ask(cookies=cookies, **headers(alice.access_token))).json()
    assert told["email"] is None  # bob's cookie says nothing about alice


async def test_two_tokens_of_two_users_are_refused(scene: Scene) -> None:
    alice, bob = scene.tokens("alice"), scene.tokens("bob")
    refused(await scene.ask(**headers(alice.access_token, bob.id_token)), 401, "invalid_token")
    mixed = {"__Secure-LATC": alice.access_token, "__Secure-LITC": bob.id_token}
    refused(await scene.ask(cookies=mixed), 401, "invalid_token")


async def test_tokens_in_places_where_they_do_not_belong(scene: Scene) -> None:
    alice = scene.tokens("alice")
    refused(await scene.ask(**headers(alice.id_token)), 401, "invalid_token")
    refused(await scene.ask(**headers(None, alice.access_token)), 401, "invalid_token")
    refused(await scene.ask(**headers(alice.refresh_token)), 401, "invalid_token")
    refused(await scene.ask(cookies={"__Secure-LATC": alice.id_token}), 401, "invalid_token")
    # In the query for streams alone: elsewhere it is not looked at, as queries end up in logs and histories.
    query = {"bearer_token": alice.access_token, "id_token": alice.id_token}
    assert (await scene.who(params=query)) != "alice"
    refused(await scene.ask(path="/conversations", params=query), 401)
    swapped = {"stream_id": "s", "bearer_token": alice.id_token}
    refused(await scene.ask(path="/sse/stream", params=swapped), 401, "invalid_token")
    foreign = {"stream_id": "s", "bearer_token": alice.access_token, "id_token": scene.tokens("bob").id_token}
    refused(await scene.ask(path="/sse/stream", params=foreign), 401, "invalid_token")


async def test_forged_tokens_open_nothing(scene: Scene) -> None:
    mint = scene.provider.mint
    key = RSAKey.generate_key(2048)
    for forged in (
        mint({"sub": "root"}, key="none"),
        mint({"sub": "root"}, key="foreign"),
        mint({"aud": "https://other.test"}),
        mint({"iss": "https://evil.test"}),
        mint({"exp": 1}),
        mint(header={"kid": f"{scene.provider.issuer}/jwks"}),
        key.as_pem(private=False).decode().replace("\n", ""),
        "x" * 20_000,
        "service:nightly",
    ):
        refused(await scene.ask(**headers(forged)), 401, "invalid_token")
        refused(await scene.ask(path="/conversations", cookies={"__Secure-LATC": forged}), 401, "invalid_token")


async def test_a_subject_cannot_be_that_of_a_service(scene: Scene) -> None:
    refused(await scene.ask(**headers(scene.provider.mint({"sub": "service:nightly"}))), 401, "invalid_token")


async def test_headers_and_cookies_smuggle_nothing(scene: Scene) -> None:
    alice, root = scene.tokens("alice"), scene.tokens("root")
    twice = [("Authorization", f"Bearer {token}") for token in (alice.access_token, root.access_token)]
    refused(await scene.ask(headers=twice), 401, "invalid_token")
    refused(await scene.ask(headers=[("X-ID-Token", alice.id_token), ("X-ID-Token", root.id_token)]), 401)
    good = alice.access_token
    for value in (
        f"Bearer {good}, Bearer {root.access_token}",
        f"Bearer {good} {root.access_token}",
        f"Bearer {good};x",
        f"Bearer {good}\tx",
    ):
        refused(await scene.ask(headers={"Authorization": value}), 401, "invalid_token")
    assert await scene.who(headers={"Authorization": f"bearer  {good} "}) == "alice"
    # A name that only looks like one of ours is none.
    plain = {"Cookie": f"LATC={root.access_token}; __secure-latc={root.access_token}; x=__Secure-LATC={good}"}
    assert (await scene.ask(headers=plain)).json()["user_type"] == "anonymous"
    response = await scene.ask(headers={"X-Request-ID": "abcdefgh\r\nSet-Cookie: x=1".replace("\r\n", " ")})
    assert "set-cookie" not in {name for name, value in response.headers.items() if "x=1" in value}
    for refusal in (await scene.ask(**headers("nonsense")), await scene.ask(**headers(good[:-4] + "AAAA"))):
        assert good not in refusal.text and refusal.headers["www-authenticate"] == "Bearer"


async def test_another_users_session_is_refused(scene: Scene) -> None:
    alice, bob = scene.tokens("alice"), scene.tokens("bob")
    session = (await scene.ask(**headers(alice.access_token))).json()["session_id"]
    client = await scene.bench.client(bob.access_token, **{"User-Session-ID": session})
    refused(await client.post("/sse/chat", json=body()), 403, "foreign_session")


async def test_another_sites_page_cannot_act_by_token_cookies(scene: Scene) -> None:
    client = await scene.bench.client()
    client.cookies.set("__Secure-LATC", scene.tokens("alice").access_token)
    theirs = {"Origin": "https://theirs.example", "Sec-Fetch-Site": "cross-site"}
    refused(await client.post("/sse/chat", json=body(), headers=theirs), 403, "cross_site")
    for origin in ("https://theirs.example", "null", "http://test.theirs.example", "http://theirs.example//test"):
        # An older browser says no more than that.
        refused(await client.post("/sse/chat", json=body(), headers={"Origin": origin}), 403, "cross_site")
    assert (await client.post("/sse/chat", json=body(), headers={"Origin": "http://test"})).status_code == 202
    assert (await client.post("/sse/chat", json=body())).status_code == 202


async def test_while_the_provider_is_away_those_it_vouched_for_go_on(scene: Scene) -> None:
    known = await scene.bench.client(scene.tokens("alice").access_token)
    await sent(known)
    with scene.provider.paused():
        await sent(known)


async def test_while_the_provider_is_away_nobody_is_taken_for_nobody(
    bench_with: Any, openid_provider: OpenIdProvider
) -> None:
    """A 401 would sign people out."""
    token = openid_provider.mint()
    with openid_provider.answering(500):
        bench = await bench_with(
            AUTH_PROVIDER="oidc",
            OIDC_ISSUER=openid_provider.issuer,
            OIDC_CLIENT_ID="test",
            OIDC_AUDIENCE=openid_provider.audience,
        )
        for _ in range(2):
            response = await (await bench.client(token)).get("/conversations")
            told = refused(response, 503, "identity_provider_unavailable")
            assert told["retry_after_s"] == int(response.headers["retry-after"]) >= 1
        assert (await (await bench.client()).get("/profile")).json()["user_type"] == "anonymous"
        assert (await (await bench.client()).get("/ready")).status_code == 200


async def test_administrators_see_how_the_provider_does(scene: Scene) -> None:
    root = await scene.bench.client(scene.tokens("root").access_token)
    told = await root.get("/monitoring/system")
    assert told.status_code == 200
    assert "identity_provider" in told.text

"""Tokens of a real OpenID provider, and everything that only looks like one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from tests.openid.provider import OpenIdClient, OpenIdProvider

from kdcube.config.auth import AuthSettings
from kdcube.config.load import load
from kdcube.config.openid import OpenIdSettings
from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.claims import StandardRules
from kdcube.gateway.identity.kept import PAUSE_S, STALE_S
from kdcube.gateway.identity.openid import TOKEN_MAX_CHARS, open_openid
from kdcube.gateway.identity.opening import open_authenticator
from kdcube.gateway.identity.verified import OpenIdAuthenticator
from kdcube.protocol.errors import ConfigurationError

pytestmark = pytest.mark.anyio


class Clock:
    """Both clocks of an authenticator; it goes on by hand."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def wall(self) -> float:
        return time.time() + self.passed_s

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


@dataclass
class Scene:
    provider: OpenIdProvider
    client: OpenIdClient
    clock: Clock
    settings: OpenIdSettings
    authenticator: OpenIdAuthenticator

    async def knows(self, token: str | None, id_token: str | None = None) -> bool:
        return await self.authenticator.authenticate(token, id_token) is not None

    async def fetched(self, token: str) -> int:
        """How often the JWKS is read to judge a token."""
        self.provider.requests()
        await self.authenticator.authenticate(token)
        return self.provider.requests().get("/jwks", 0)


def settings_of(provider: OpenIdProvider, client_id: str, **variables: str) -> OpenIdSettings:
    given = {
        "AUTH_PROVIDER": "oidc",
        "OIDC_ISSUER": provider.issuer,
        "OIDC_CLIENT_ID": client_id,
        "OIDC_AUDIENCE": provider.audience,
        **variables,
    }
    settings = load(AuthSettings, given).openid
    assert settings is not None
    return settings


@asynccontextmanager
async def open_scene(provider: OpenIdProvider, **more: Any) -> AsyncGenerator[Scene]:
    client = provider.client()
    settings, clock = settings_of(provider, client.client_id), Clock()
    async with open_openid(settings, clock=clock.wall, monotonic=clock.monotonic) as opened:
        authenticator = OpenIdAuthenticator(opened, StandardRules(settings), clock=clock.wall, **more)
        yield Scene(provider, client, clock, settings, authenticator)


@pytest.fixture
async def scene(openid_provider: OpenIdProvider) -> AsyncGenerator[Scene]:
    async with open_scene(openid_provider) as scene:
        yield scene


async def test_who_signs_in_is_known(scene: Scene) -> None:
    tokens = scene.provider.sign_in(scene.client, "paula")
    for given in [(tokens.access_token, tokens.id_token), (None, tokens.id_token)]:
        assert await scene.authenticator.authenticate(*given) == Identity(
            "paula", "paula", "paula@example.org", ("kdcube:role:paid",)
        )
    alone = await scene.authenticator.authenticate(tokens.access_token)
    assert alone == Identity("paula", "paula", None, ("kdcube:role:paid",))


async def test_a_token_is_good_for_its_own_place_only(scene: Scene) -> None:
    tokens = scene.provider.sign_in(scene.client, "alice")
    assert not await scene.knows(tokens.id_token)
    assert not await scene.knows(None, tokens.access_token)
    assert not await scene.knows(tokens.access_token, tokens.access_token)
    assert not await scene.knows(tokens.refresh_token)
    assert await scene.knows(tokens.access_token, tokens.id_token)  # what was refused has not spoilt what is good


async def test_two_tokens_are_of_one_user(scene: Scene) -> None:
    alice, bob = (scene.provider.sign_in(scene.client, name) for name in ("alice", "bob"))
    assert not await scene.knows(alice.access_token, bob.id_token)
    assert not await scene.knows(alice.access_token, "nonsense")
    assert not await scene.knows("nonsense", bob.id_token)


NOW = time.time()
BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "https://other.test"},
    "no audience": {"aud": None},
    "an audience that only begins alike": {"aud": "https://kdcube.test/api/"},
    "audiences that are no text": {"aud": [1, {"https://kdcube.test/api": 1}]},
    "another issuer": {"iss": "https://evil.test"},
    "no issuer": {"iss": None},
    "expired": {"exp": NOW - 60},
    "never expires": {"exp": None},
    "not yet valid": {"nbf": NOW + 3600},
    "made in the future": {"iat": NOW + 3600},
    "a time that is a text": {"exp": "9999999999"},
    "a time that is true": {"nbf": True},
    "a time beyond all": {"exp": 10**40},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is a number": {"sub": 7},
    "a subject with a line break": {"sub": "alice\nroot"},
    "a subject that is too long": {"sub": "a" * 257},
    "a logout token": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
}


@pytest.mark.parametrize("what", BAD_CLAIMS)
async def test_bad_claims(scene: Scene, what: str) -> None:
    assert not await scene.knows(scene.provider.mint(BAD_CLAIMS[what]))


async def test_good_claims(scene: Scene) -> None:
    skew_s = scene.settings.skew_s
    for claims in (
        {},
        {"aud": ["https://other.test", scene.provider.audience]},
        {"exp": time.time() - skew_s / 2},
        {"nbf": time.time() + skew_s / 2},
        {"exp": time.time() + 60.5},
    ):
        assert await scene.knows(scene.provider.mint(claims)), claims
    assert await scene.knows(scene.provider.mint(key="ES256"))
    assert await scene.knows(scene.provider.mint(header={"typ": None}))


async def test_an_id_token_of_another_client_is_refused(scene: Scene) -> None:
    own, other = scene.client.client_id, "another-client"
    mint = scene.provider.mint
    for claims, good in (
        ({"aud": own}, True),
        ({"aud": own, "azp": own}, True),
        ({"aud": [own, other], "azp": own}, True),
        ({"aud": other}, False),
        ({"aud": own, "azp": other}, False),
        ({"aud": [own, other]}, False),
        ({"aud": [own, other], "azp": [own]}, False),
    ):
        assert await scene.knows(None, mint(claims, header={"typ": "JWT"})) is good, claims


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "logout+jwt"},
        {"typ": "JOSE"},
        {"kid": "unknown"},
        {"kid": "../../jwks"},
        {"kid": "https://evil.test/jwks"},
        {"kid": ""},
        {"kid": "' OR 1=1 --"},
        {"kid": 7},
        {"crit": ["x"], "x": 1},
    ],
    ids=str,
)
async def test_bad_headers(scene: Scene, header: dict[str, Any]) -> None:
    assert not await scene.knows(scene.provider.mint(header=header))


async def test_no_key_is_fetched_from_where_a_token_says(scene: Scene) -> None:
    key = RSAKey.generate_key(2048, parameters={"kid": "mine"}, private=True)
    theirs = f"{scene.provider.issuer}/planted"
    claims = {"iss": scene.provider.issuer, "aud": scene.provider.audience, "sub": "root", "exp": time.time() + 60}
    for header in ({"jku": theirs}, {"x5u": theirs}, {"jwk": key.as_dict(private=False)}, {"x5c": ["AAAA"]}):
        forged = jwt.encode({"alg": "RS256", "kid": "mine", **header}, claims, key)
        scene.provider.requests()
        assert not await scene.knows(forged)
        assert "/planted" not in scene.provider.requests()
    known = scene.provider.public_keys()[0]["kid"]
    assert not await scene.knows(jwt.encode({"alg": "RS256", "kid": known}, claims, key))


async def test_no_signature_but_that_of_the_provider(scene: Scene) -> None:
    mint = scene.provider.mint
    good = mint({"sub": "root"})
    head, body, signature = good.split(".")
    for forged in (
        mint({"sub": "root"}, key="foreign"),
        mint({"sub": "root"}, key="none"),
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{mint({'sub': 'alice'}).split('.')[1]}.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{mint(key='ES256').split('.')[0]}.{body}.{signature}",
        f" {good}",
        f"{good}\n",
        good + "ä",
        "..",
        "",
        "[" * 5000 + "..",
    ):
        assert not await scene.knows(forged), forged
    assert await scene.knows(good)


async def test_the_public_key_is_no_secret_to_sign_with(scene: Scene) -> None:
    public = next(key for key in scene.provider.public_keys() if key["kty"] == "RSA")
    pem = RSAKey.import_key({name: public[name] for name in ("kty", "n", "e")}).as_pem(private=False)
    claims = {"iss": scene.provider.issuer, "aud": scene.provider.audience, "sub": "root", "exp": time.time() + 60}
    secret = OctKey.import_key(pem.replace(b"-----BEGIN", b"BEGIN"))
    for algorithm in ("HS256", "HS384", "HS512"):
        forged = jwt.encode({"alg": algorithm, "kid": public["kid"]}, claims, secret, algorithms=[algorithm])
        assert not await scene.knows(forged)


async def test_a_long_token_is_not_looked_at(scene: Scene) -> None:
    assert await scene.knows(scene.provider.mint({"filler": "x" * 6000}))
    assert not await scene.knows(scene.provider.mint({"filler": "x" * TOKEN_MAX_CHARS}))


async def test_keys_rotate(scene: Scene) -> None:
    before = scene.provider.mint()
    assert await scene.knows(before)
    scene.clock.passed_s += PAUSE_S
    scene.provider.rotate_keys()
    assert await scene.fetched(scene.provider.mint()) == 1
    assert await scene.knows(scene.provider.mint())
    assert await scene.knows(before)
    scene.provider.rotate_keys(drop=True)
    scene.clock.passed_s += PAUSE_S
    assert await scene.knows(scene.provider.mint())
    assert not await scene.knows(before)  # proven before: the key is withdrawn, and with it what it signed


async def test_unknown_keys_are_asked_for_once_in_a_while(scene: Scene) -> None:
    assert await scene.knows(scene.provider.mint())
    scene.clock.passed_s += PAUSE_S
    reads = [await scene.fetched(scene.provider.mint(header={"kid": f"forged-{n}"})) for n in range(20)]
    assert sum(reads) == 1


async def test_all_who_wait_share_one_answer(openid_provider: OpenIdProvider) -> None:
    async with open_scene(openid_provider) as scene:
        tokens = [scene.provider.mint({"sub": f"user-{n}"}) for n in range(20)]
        scene.provider.requests()
        assert all(await asyncio.gather(*(scene.knows(token) for token in tokens)))
        assert scene.provider.requests() == {"/.well-known/openid-configuration": 1, "/jwks": 1}


@pytest.fixture(params=["paused", "broken"])
def away(openid_provider: OpenIdProvider, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Takes the provider away for as long as a ``with`` lasts."""
    return openid_provider.paused if request.param == "paused" else lambda: openid_provider.answering(500)


async def test_while_the_provider_is_away_what_is_known_goes_on(scene: Scene, away: Callable[[], Any]) -> None:
    known, of_known_key = scene.provider.mint(), scene.provider.mint({"sub": "bob"})
    unknown = scene.provider.mint(header={"kid": "new"})
    assert await scene.knows(known)
    with away():
        scene.clock.passed_s += 100
        assert await scene.knows(known)
        assert await scene.knows(of_known_key)
        with pytest.raises(Unavailable):
            await scene.knows(unknown)
        with pytest.raises(Unavailable):  # at once: it was tried a moment ago
            await scene.knows(unknown)
    scene.clock.passed_s += PAUSE_S
    assert not await scene.knows(unknown)


async def test_keys_are_not_believed_for_ever(scene: Scene) -> None:
    token = scene.provider.mint({"exp": time.time() + 2 * STALE_S})
    assert await scene.knows(scene.provider.mint())
    with scene.provider.answering(500):
        scene.clock.passed_s += STALE_S - 60
        assert await scene.knows(token)
        scene.clock.passed_s += 120
        with pytest.raises(Unavailable):
            await scene.knows(scene.provider.mint({"exp": time.time() + 2 * STALE_S, "sub": "bob"}))
    scene.clock.passed_s += PAUSE_S
    assert await scene.knows(token)


async def test_a_kept_token_expires_and_the_oldest_makes_room(openid_provider: OpenIdProvider) -> None:
    async with open_scene(openid_provider, max_kept=2) as scene:
        tokens = [scene.provider.mint({"sub": f"user-{n}"}) for n in range(4)]
        for token in tokens:
            assert await scene.knows(token)
        scene.clock.passed_s += 599 + scene.settings.skew_s
        assert await scene.knows(tokens[-1])
        scene.clock.passed_s += 2
        for token in tokens:
            assert not await scene.knows(token)


async def test_an_installation_starts_while_the_provider_is_away(openid_provider: OpenIdProvider) -> None:
    variables = {
        "AUTH_PROVIDER": "oidc",
        "OIDC_ISSUER": openid_provider.issuer,
        "OIDC_CLIENT_ID": "test",
        "OIDC_AUDIENCE": openid_provider.audience,
    }
    with openid_provider.answering(503):
        async with open_authenticator(load(AuthSettings, variables)) as authenticator:
            with pytest.raises(Unavailable):
                await authenticator.authenticate(openid_provider.mint())


async def test_an_issuer_that_calls_itself_otherwise_is_a_mistake(openid_provider: OpenIdProvider) -> None:
    variables = {"AUTH_PROVIDER": "oidc", "OIDC_ISSUER": f"{openid_provider.issuer}/", "OIDC_CLIENT_ID": "test"}
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigurationError, match=f"OIDC_ISSUER.*{openid_provider.issuer}"):
            await stack.enter_async_context(open_authenticator(load(AuthSettings, variables)))

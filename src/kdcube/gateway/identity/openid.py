"""An OpenID provider: where it is, which keys it signs with, and what a token of it proves.

``OpenIdProvider.verify`` proves that the provider made a token and that it is valid now. For whom it was made, and for
what, is for ``check_access_token`` and ``check_id_token``: without one of them a token proves nothing here.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from kdcube.breaker import Breaker
from kdcube.config.openid import ALGORITHMS, OpenIdSettings, is_protected
from kdcube.gateway.identity.documents import Documents, open_documents
from kdcube.gateway.identity.kept import Kept, provider_away
from kdcube.gateway.identity.signing_keys import JWKS, KeySet, SigningKeys, key_set
from kdcube.protocol.errors import ConfigurationError, KDCubeError

TOKEN_MAX_CHARS = 16 * 1024
"""Longer ones are not looked at."""
_TIME_MAX = 1e15
_ID_TYPES = frozenset({None, "JWT"})
_ACCESS_TYPES = frozenset({None, "JWT", "AT+JWT"})


class InvalidToken(KDCubeError):
    """The token proves nothing. The message says why, in general words."""


class Metadata(msgspec.Struct, frozen=True):
    """The discovery document, as far as it is used."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    end_session_endpoint: str | None = None
    revocation_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False
    """It names itself in its answers (RFC 9207): an answer that does not is not its own."""


_METADATA = msgspec.json.Decoder(Metadata)


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: Any = None


_HEADER = msgspec.json.Decoder(_Header)
_REGISTRIES = {name: jws.JWSRegistry(algorithms=[name], strict_check_header=False) for name in ALGORITHMS}
"""Members of a header that are not known here are passed over; none is ever followed."""
_CLAIMS = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that the provider made and that is valid now."""

    claims: Mapping[str, Any]
    type: str | None
    """In capitals, without ``application/``: JWT, AT+JWT, LOGOUT+JWT."""
    expires_s: float
    """Of the clock; the skew is in it."""
    fingerprint: str
    """Of the key that signed it."""


class OpenIdProvider:
    """One provider. Documents and keys are kept; see ``Kept``."""

    def __init__(
        self,
        settings: OpenIdSettings,
        documents: Documents,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._documents = documents
        self._clock = clock
        self._metadata = Kept("discovery", self._discover, monotonic=monotonic)
        self._jwks = Kept("jwks", self._read_keys, monotonic=monotonic)
        self.keys = SigningKeys(self._jwks)

    @property
    def breaker(self) -> Breaker:
        """Of its documents."""
        return self._documents.breaker

    async def metadata(self) -> Metadata:
        """Its endpoints. Raises Unavailable, ConfigurationError when it is another provider than configured."""
        return await self._metadata.get()

    async def verify(self, token: str) -> Verified:
        """Signature, issuer and times. Raises InvalidToken, Unavailable."""
        header = _header_of(token)
        if header.alg not in self.settings.algorithms:
            raise InvalidToken("its signature is of a kind that is not accepted")
        if header.crit is not None:
            raise InvalidToken("it demands what is not known here")
        key = await self.keys.find(header.kid, header.alg)
        if key is None:
            raise InvalidToken("the provider does not sign with such a key")
        try:
            signed = jws.deserialize_compact(token, key.key, registry=_REGISTRIES[header.alg])
            claims = _CLAIMS.decode(signed.payload or b"")
        except (JoseError, ValueError, msgspec.MsgspecError, RecursionError):
            raise InvalidToken("its signature or its content is wrong") from None
        expires_s = self._check_claims(claims)
        type_ = header.typ and header.typ.upper().removeprefix("APPLICATION/")
        return Verified(claims, type_, expires_s, key.fingerprint)

    def _check_claims(self, claims: Mapping[str, Any]) -> float:
        """When it ends."""
        now, skew_s = self._clock(), self.settings.skew_s
        if claims.get("iss") != self.settings.issuer:
            raise InvalidToken("it is of another issuer")
        expires_s = _time(claims, "exp")
        if expires_s is None:
            raise InvalidToken("it never expires")
        if now >= expires_s + skew_s:
            raise InvalidToken("it has expired")
        for name in ("nbf", "iat"):
            if (_time(claims, name) or 0) > now + skew_s:
                raise InvalidToken("it is not valid yet")
        return expires_s + skew_s

    async def _discover(self) -> Metadata:
        url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        metadata = await self._documents.read(url, _METADATA)
        if metadata.issuer != self.settings.issuer:
            raise ConfigurationError(
                "OIDC_ISSUER",
                f"is {self.settings.issuer!r}, but there the provider says {metadata.issuer!r}; give that",
            )
        if not all(url is None or is_protected(url) for url in _endpoints(metadata)):
            raise provider_away() from KDCubeError("one of its addresses is not https")
        return metadata

    async def _read_keys(self) -> KeySet:
        jwks_uri = self.settings.jwks_uri
        if jwks_uri is None:
            try:
                jwks_uri = (await self._metadata.get()).jwks_uri
            except ConfigurationError as error:
                raise provider_away() from error
        return key_set(await self._documents.read(jwks_uri, JWKS))

    async def close(self) -> None:
        """Stops what is under way."""
        await self._jwks.close()
        await self._metadata.close()


def check_access_token(verified: Verified, audiences: Collection[str]) -> None:
    """Raises InvalidToken for one that was not made for this service."""
    _check_kind(verified, _ACCESS_TYPES)
    if not _audience(verified.claims).intersection(audiences):
        raise InvalidToken("it was made for another audience")


def check_id_token(verified: Verified, client_ids: Collection[str]) -> None:
    """Raises InvalidToken for one that was not made for one of these clients."""
    _check_kind(verified, _ID_TYPES)
    audience, authorised = _audience(verified.claims), verified.claims.get("azp")
    if not audience.intersection(client_ids):
        raise InvalidToken("it was made for another client")
    if (authorised not in client_ids) if authorised is not None else len(audience) > 1:
        raise InvalidToken("it was made for another client")


def _check_kind(verified: Verified, types: Collection[str | None]) -> None:
    if verified.type not in types or "events" in verified.claims:  # such as a logout token
        raise InvalidToken("it is of another kind")


def _audience(claims: Mapping[str, Any]) -> set[str]:
    given = claims.get("aud")
    several = cast("list[object]", given) if isinstance(given, list) else [given]
    return {name for name in several if isinstance(name, str)}


def _header_of(token: str) -> _Header:
    if len(token) > TOKEN_MAX_CHARS:
        raise InvalidToken("it is too long")
    if not token.isascii() or token.count(".") != 2:
        raise InvalidToken("it is no signed token")
    try:
        text = token.partition(".")[0]
        return _HEADER.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise InvalidToken("it is no signed token") from None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _TIME_MAX:
        raise InvalidToken("its times are no numbers")
    return float(value)


def _endpoints(metadata: Metadata) -> tuple[str | None, ...]:
    return (
        metadata.jwks_uri, metadata.authorization_endpoint, metadata.token_endpoint, metadata.end_session_endpoint,
        metadata.revocation_endpoint,
    )  # fmt: skip


@asynccontextmanager
async def open_openid(
    settings: OpenIdSettings, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> AsyncGenerator[OpenIdProvider]:
    """The provider. Nothing is asked of it before it is needed."""
    async with AsyncExitStack() as stack:
        documents = await stack.enter_async_context(open_documents())
        provider = OpenIdProvider(settings, documents, clock=clock, monotonic=monotonic)
        stack.push_async_callback(provider.close)
        yield provider

"""What proxylogin keeps of a login, sealed: tokens, and until when the provider's word counts."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import msgspec

from kdcube.gateway.identity.logins import encode_claims, hash_of, seal_claims
from kdcube.gateway.identity.sealing import Keyring
from kdcube.postgres.logins import NewLogin
from kdcube.proxylogin.provider import Granted

REFRESH_MARGIN_S = 60.0
"""Before its end an access token is refreshed; or at two thirds of its life, if that is later."""


class Tokens(msgspec.Struct, frozen=True):
    """``id_token`` is the one of the sign-in: it goes to the provider when the user signs out, and to nobody else."""

    access_token: str
    refresh_token: str | None
    id_token: str | None

    def __repr__(self) -> str:
        return "Tokens()"


_DECODER = msgspec.msgpack.Decoder(Tokens)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class SealedGrant:
    """As a row holds it. Without a refresh token nothing is due, and the login lasts by its own limits."""

    claims: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    sealed_by: str
    confirmed_ms: int | None
    refresh_ms: int | None


class Keeping:
    """``grace_s``: for how long the provider's last word counts while it cannot be asked."""

    def __init__(self, keyring: Keyring, *, idle_s: float, lifetime_s: float, grace_s: float) -> None:
        self.keyring = keyring
        self._idle_ms = int(idle_s * 1000)
        self.lifetime_s = lifetime_s
        self._grace_s = grace_s

    def new_login(self, cookie: str, issuer: str, granted: Granted, now_ms: int) -> NewLogin:
        cookie_hash = hash_of(cookie)
        sealed = self.sealed(cookie_hash, granted, granted.refresh_token, granted.id_token, now_ms)
        return NewLogin(
            cookie_hash=cookie_hash,
            login_id=secrets.token_hex(12),
            user_id=granted.identity.user_id,
            issuer=issuer,
            provider_session=granted.provider_session,
            claims=sealed.claims,
            tokens=sealed.tokens,
            sealed_by=sealed.sealed_by,
            opened_ms=now_ms,
            idle_ms=self._idle_ms,
            expires_ms=now_ms + int(self.lifetime_s * 1000),
            confirmed_ms=sealed.confirmed_ms,
            refresh_ms=sealed.refresh_ms,
        )

    def sealed(
        self, cookie_hash: bytes, granted: Granted, refresh_token: str | None, id_token: str | None, now_ms: int
    ) -> SealedGrant:
        tokens = Tokens(granted.access_token, refresh_token, id_token)
        ends_s = granted.expires_in_s
        early_s = min(REFRESH_MARGIN_S, ends_s / 3)
        return SealedGrant(
            seal_claims(self.keyring, cookie_hash, encode_claims(granted.identity)),
            self.keyring.seal(_ENCODER.encode(tokens), "logins.tokens", cookie_hash.hex()),
            self.keyring.current,
            None if refresh_token is None else now_ms + int((ends_s + self._grace_s) * 1000),
            None if refresh_token is None else now_ms + int((ends_s - early_s) * 1000),
        )

    def tokens(self, cookie_hash: bytes, sealed: bytes) -> Tokens:
        """Raises Unsealable."""
        return _DECODER.decode(self.keyring.unseal(sealed, "logins.tokens", cookie_hash.hex()))

    def reseal_tokens(self, cookie_hash: bytes, sealed: bytes) -> bytes:
        """The same under the current key. Raises Unsealable."""
        context = ("logins.tokens", cookie_hash.hex())
        return self.keyring.seal(self.keyring.unseal(sealed, *context), *context)

"""The provider's side of a sign-in: where the browser is sent, and what is asked for at its token endpoint."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.claims import Rules
from kdcube.gateway.identity.kept import provider_away
from kdcube.gateway.identity.openid import InvalidToken, OpenIdProvider, Verified, check_id_token
from kdcube.protocol.errors import KDCubeError
from kdcube.proxylogin.attempts import Attempt
from kdcube.proxylogin.sign_out import sign_out_url, with_query
from kdcube.proxylogin.token_endpoint import TokenEndpoint

LIFETIME_DEFAULT_S = 300.0
"""Of an access token that does not say."""

_REFUSED_CODES = frozenset({"invalid_grant"})

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class SignInFailed(KDCubeError):
    """The provider's answer is no sign-in. The message is for people and holds nothing of a token."""


class _Answer(msgspec.Struct, frozen=True):
    access_token: str
    id_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


class _Error(msgspec.Struct, frozen=True):
    error: str


_ANSWER = msgspec.json.Decoder(_Answer, strict=False)
_ERROR = msgspec.json.Decoder(_Error)


@dataclass(frozen=True, slots=True)
class Granted:
    """What the provider granted, and to whom."""

    identity: Identity
    provider_session: str | None
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    id_token: str | None = field(repr=False)
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider refuses for good: the user has to sign in again. ``error`` is its word for that."""

    error: str


Outcome: TypeAlias = Granted | Refused


class SignIns:
    """What a sign-in needs of the provider. Methods raise Unavailable while it cannot be asked."""

    def __init__(
        self,
        provider: OpenIdProvider,
        rules: Rules,
        tokens: TokenEndpoint,
        *,
        scopes: str,
        callback_url: str,
        signed_out_url: str,
    ) -> None:
        self.provider = provider
        self.issuer = provider.settings.issuer
        self._rules = rules
        self._tokens = tokens
        self._client_id = provider.settings.client_ids[0]
        self._scopes = scopes
        self._callback_url = callback_url
        self._signed_out_url = signed_out_url

    def check(self) -> None:
        """Raises Unavailable when the provider is known not to give tokens now."""
        self._tokens.check()

    async def authorization_url(self, attempt: Attempt) -> str:
        """Where the browser goes to sign in."""
        metadata = await self.provider.metadata()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._callback_url,
            "scope": self._scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        if "offline_access" in self._scopes.split():
            query["prompt"] = "consent"  # without it the scope must be ignored (OpenID Connect Core, 11)
        return with_query(_endpoint(metadata.authorization_endpoint), query)

    async def exchange(self, code: str, attempt: Attempt) -> Granted:
        """The code for tokens. Raises SignInFailed."""
        answer = await self._ask_for_tokens(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._callback_url,
                "code_verifier": attempt.verifier,
            }
        )
        if isinstance(answer, Refused):
            raise SignInFailed(f"The identity provider refused the code ({answer.error}).")
        if answer.id_token is None:
            raise SignInFailed("The identity provider gave no ID token.")
        try:
            verified = await self.provider.verify(answer.id_token)
            check_id_token(verified, (self._client_id,))
            nonce = verified.claims.get("nonce")
            if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), attempt.nonce.encode()):
                raise InvalidToken("it is of another sign-in")
            identity = await self._identity(verified, answer.access_token)
        except InvalidToken as error:
            raise SignInFailed(f"The identity provider's ID token does not count: {error}.") from None
        return _granted(identity, verified.claims, answer)

    async def refresh(self, refresh_token: str, before: Identity) -> Outcome:
        """New tokens for the user ``before``. What is not in the answer stays as it was."""
        answer = await self._ask_for_tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})
        if isinstance(answer, Refused):
            return answer
        identity = before
        claims: Mapping[str, Any] = {}
        try:
            if answer.id_token is not None:
                verified = await self.provider.verify(answer.id_token)
                check_id_token(verified, (self._client_id,))
                identity, claims = await self._identity(verified, answer.access_token), verified.claims
                if identity.user_id != before.user_id:
                    raise InvalidToken("it is of another user")
            else:
                identity = await self._renewed(before, answer.access_token)
        except InvalidToken as error:
            logger.error("proxylogin.refreshed_token_not_valid", reason=str(error))
            return Refused("invalid_id_token")
        except Unavailable as error:  # the tokens are new all the same, and must not be lost
            logger.warning("proxylogin.refreshed_unverified", reason=str(error))
        return _granted(identity, claims, answer)

    async def revoke(self, token: str) -> None:
        """Tells the provider that a refresh token is not needed any more (RFC 7009). As well as it goes."""
        try:
            metadata = await self.provider.metadata()
            if metadata.revocation_endpoint is not None:
                methods = metadata.token_endpoint_auth_methods_supported
                await self._tokens.revoke(metadata.revocation_endpoint, token, methods)
        except Unavailable as error:
            logger.info("proxylogin.not_revoked", reason=str(error))

    async def sign_out_url(self, id_token: str | None) -> str | None:
        """Where the browser goes to sign out at the provider; None when the provider offers no such place."""
        try:
            metadata = await self.provider.metadata()
        except Unavailable as error:
            logger.info("proxylogin.provider_sign_out_skipped", reason=str(error))
            return None
        return sign_out_url(
            self.provider.settings,
            metadata,
            client_id=self._client_id,
            back_to=self._signed_out_url,
            id_token=id_token,
        )

    async def _identity(self, verified: Verified, access_token: str) -> Identity:
        """As with tokens in a request: roles are those of the access token, if it is for us to read."""
        person = self._rules.of_id_token(verified)
        try:
            access = self._rules.of_access_token(await self.provider.verify(access_token))
        except InvalidToken:
            return person
        if access.user_id != person.user_id:
            raise InvalidToken("the access token is of another user")
        return replace(access, username=person.username or access.username, email=person.email or access.email)

    async def _renewed(self, before: Identity, access_token: str) -> Identity:
        """Without an ID token: the roles are those of the new access token, if it is for us to read."""
        try:
            access = self._rules.of_access_token(await self.provider.verify(access_token))
        except InvalidToken:
            return before
        if access.user_id != before.user_id:
            raise InvalidToken("the access token is of another user")
        return replace(before, roles=access.roles)

    async def _ask_for_tokens(self, form: Mapping[str, str]) -> _Answer | Refused:
        metadata = await self.provider.metadata()
        methods = metadata.token_endpoint_auth_methods_supported
        status, body = await self._tokens.ask(_endpoint(metadata.token_endpoint), form, methods)
        try:
            if status == 200:
                return _ANSWER.decode(body)
            error = _ERROR.decode(body).error if status in (400, 401) else f"status {status}"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = f"status {status}, not readable"
        if error in _REFUSED_CODES:
            return Refused(error)
        logger.error("proxylogin.token_endpoint", status=status, error=error[:100])
        raise provider_away()  # such as a client secret that is wrong: it is no user's fault


def _granted(identity: Identity, claims: Mapping[str, Any], answer: _Answer) -> Granted:
    session = claims.get("sid")
    lifetime_s = answer.expires_in if answer.expires_in and answer.expires_in > 0 else LIFETIME_DEFAULT_S
    return Granted(
        identity,
        session if isinstance(session, str) else None,
        answer.access_token,
        answer.refresh_token,
        answer.id_token,
        lifetime_s,
    )


def _endpoint(url: str | None) -> str:
    if url is None:
        logger.error("proxylogin.provider_lacks_endpoint")
        raise provider_away()
    return url

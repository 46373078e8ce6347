"""The provider's side of a sign-in: where the browser is sent, and what is asked for at its token endpoint."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import anyio
import httpx
import msgspec
import structlog
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.claims import Rules
from kdcube.gateway.identity.kept import provider_away
from kdcube.gateway.identity.openid import InvalidToken, OpenIdProvider, Verified, check_id_token
from kdcube.protocol.errors import KDCubeError
from kdcube.proxylogin.attempts import Attempt

TIMEOUT_S = 10.0
"""Of one question to the token endpoint."""
REVOKE_TIMEOUT_S = 3.0
"""A user who signs out is waiting."""
MAX_BYTES = 256 * 1024
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
        http: httpx.AsyncClient,
        *,
        client_secret: SecretStr | None,
        scopes: str,
        callback_url: str,
        signed_out_url: str,
    ) -> None:
        self.provider = provider
        self.issuer = provider.settings.issuer
        self._rules = rules
        self._http = http
        self._client_id = provider.settings.client_ids[0]
        self._client_secret = client_secret
        self._scopes = scopes
        self._callback_url = callback_url
        self._signed_out_url = signed_out_url

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
        return _with_query(_endpoint(metadata.authorization_endpoint), query)

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
        except InvalidToken as error:
            logger.error("proxylogin.refreshed_token_not_valid", reason=str(error))
            return Refused("invalid_id_token")
        except Unavailable as error:  # the tokens are new all the same, and must not be lost
            logger.warning("proxylogin.refreshed_unverified", reason=str(error))
        return _granted(identity, claims, answer)

    async def revoke(self, token: str) -> None:
        """Tells the provider that a refresh token is not needed any more (RFC 7009). As well as it goes."""
        try:
            endpoint = (await self.provider.metadata()).revocation_endpoint
            if endpoint is not None:
                await self._post(endpoint, {"token": token, "token_type_hint": "refresh_token"}, REVOKE_TIMEOUT_S)
        except Unavailable as error:
            logger.info("proxylogin.not_revoked", reason=str(error))

    async def sign_out_url(self, id_token: str | None) -> str | None:
        """Where the browser goes to sign out at the provider; None when the provider offers no such place."""
        try:
            endpoint = (await self.provider.metadata()).end_session_endpoint
        except Unavailable as error:
            logger.info("proxylogin.provider_sign_out_skipped", reason=str(error))
            return None
        if endpoint is None:
            return None
        query = {"client_id": self._client_id, "post_logout_redirect_uri": self._signed_out_url}
        return _with_query(endpoint, query | ({"id_token_hint": id_token} if id_token else {}))

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

    async def _ask_for_tokens(self, form: Mapping[str, str]) -> _Answer | Refused:
        status, body = await self._post(_endpoint((await self.provider.metadata()).token_endpoint), form)
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

    async def _post(self, url: str, form: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        data = {**form, "client_id": self._client_id}
        auth = None
        if self._client_secret is not None:
            methods = (await self.provider.metadata()).token_endpoint_auth_methods_supported
            if "client_secret_basic" in methods or "client_secret_post" not in methods:
                secret = self._client_secret.get_secret_value()
                auth = httpx.BasicAuth(quote(self._client_id, safe=""), quote(secret, safe=""))
            else:
                data["client_secret"] = self._client_secret.get_secret_value()
        try:
            with anyio.fail_after(timeout_s):
                async with self._http.stream("POST", url, data=data, auth=auth, headers=headers) as response:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise provider_away()
                    return response.status_code, bytes(body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise provider_away() from error


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


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


@asynccontextmanager
async def open_http() -> AsyncGenerator[httpx.AsyncClient]:
    """For the token endpoint: no redirects, bounded in time."""
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=4)
    async with httpx.AsyncClient(follow_redirects=False, timeout=TIMEOUT_S, limits=limits) as http:
        yield http

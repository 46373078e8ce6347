"""``/auth/*``: signing in, signing out, and who is signed in."""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections.abc import Callable, Collection
from urllib.parse import parse_qs

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.answers import json_response
from kdcube.gateway.errors import BadRequest, Forbidden, RateLimited
from kdcube.gateway.exchange import request_id_of
from kdcube.gateway.identity.addresses import Addresses, Buckets
from kdcube.gateway.identity.authenticator import user_type_of
from kdcube.gateway.identity.cookies import only_cookie
from kdcube.gateway.identity.logins import LoginOver, LoginResolver, hash_of, login_cookie, login_over, new_cookie
from kdcube.gateway.identity.openid import InvalidToken
from kdcube.gateway.reading import read_body
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.logins import Logins
from kdcube.proxylogin import attempts as signing
from kdcube.proxylogin.attempts import Attempt, Attempts, browser_secret
from kdcube.proxylogin.keeping import Keeping
from kdcube.proxylogin.logout_token import checked_logout_token
from kdcube.proxylogin.openapi import openapi_document
from kdcube.proxylogin.provider import SignInFailed, SignIns
from kdcube.proxylogin.refreshing import Refresher
from kdcube.proxylogin.return_to import checked_return_to
from kdcube.telemetry.instruments import Instruments

BACKCHANNEL_MAX_BYTES = 64 * 1024
_PROVIDER_ERROR = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SAID = {
    "access_denied": "The identity provider did not let you in, or you cancelled.",
    "login_required": "The identity provider wants you to sign in.",
    "interaction_required": "The identity provider wants you to sign in.",
    "consent_required": "The identity provider wants your consent.",
    "temporarily_unavailable": "The identity provider cannot serve this now; try again in a while.",
    "server_error": "The identity provider had an error; try again in a while.",
}

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class AuthRoutes:
    """``site`` is where users come back to; ``origins`` whose pages may sign people out."""

    def __init__(
        self,
        attempts: Attempts,
        sign_ins: SignIns,
        keeping: Keeping,
        logins: Logins,
        resolver: LoginResolver,
        refresher: Refresher,
        audit: Audit,
        *,
        site: str,
        origins: Collection[str],
        secure: bool,
        addresses: Addresses,
        buckets: Buckets,
        instruments: Instruments,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._attempts = attempts
        self._sign_ins = sign_ins
        self._keeping = keeping
        self._logins = logins
        self._resolver = resolver
        self._refresher = refresher
        self._audit = audit
        self._site = site
        self._origins = frozenset(origins)
        self._secure = secure
        self._cookie = login_cookie(secure=secure)
        self._browser_cookie = "__Host-kdcube_signing_in" if secure else "kdcube_signing_in"
        self._addresses = addresses
        self._buckets = buckets
        self._instruments = instruments
        self._clock = clock

    async def login(self, request: Request) -> Response:
        """``GET /auth/login?return_to=/c/123``: on to the provider."""
        self._take_token(request)
        return_to = checked_return_to(_only(request, "return_to"))
        browser = browser_secret(request.cookies.get(self._browser_cookie))
        attempt = self._attempts.begin(browser, return_to)
        response = RedirectResponse(await self._sign_ins.authorization_url(attempt), 303)
        self._set_cookie(response, self._browser_cookie, browser, signing.LIFETIME_S)
        return response

    async def callback(self, request: Request) -> Response:
        """``GET /auth/callback``: back from the provider, with a code or an error."""
        self._take_token(request)
        attempt = await self._resumed(request)
        try:
            signed_in = await self._signed_in(request, attempt)
            self._instruments.counter("sign_ins", outcome="signed_in").add()
            return signed_in
        except (BadRequest, SignInFailed) as error:
            self._instruments.counter("sign_ins", outcome="failed").add()
            logger.info("proxylogin.sign_in_failed", reason=str(error))
            actor = self._actor(request, "anonymous")
            await self._audit.record(actor, "login.failed", "", {"reason": str(error)}, outcome="refused")
            if isinstance(error, SignInFailed):
                raise BadRequest(str(error), error="sign_in_failed") from None
            raise

    async def _resumed(self, request: Request) -> Attempt:
        """The sign-in that this browser began, which is answered now and never again."""
        state, browser = _only(request, "state"), request.cookies.get(self._browser_cookie)
        attempt = None if state is None else self._attempts.resume(state, browser)
        if attempt is None:
            raise BadRequest(
                "This sign-in was not begun in this browser, or too long ago: begin again.", error="unknown_sign_in"
            )
        self._sign_ins.check()  # else it is spent in vain, and cannot be answered when the provider is back
        if not await self._logins.spend(attempt.spending):
            raise BadRequest("This sign-in was answered before: begin again.", error="sign_in_repeated")
        return attempt

    async def _signed_in(self, request: Request, attempt: Attempt) -> Response:
        await self._check_issuer(_only(request, "iss"))
        if (error := _only(request, "error")) is not None:
            word = error if _PROVIDER_ERROR.fullmatch(error) else "unknown"
            said = _SAID.get(word, "The identity provider refused.")
            raise BadRequest(f"{said} ({word})", error="refused_by_provider")
        code = _only(request, "code")
        if not code:
            raise BadRequest("The identity provider's answer has no code.", error="sign_in_failed")
        granted = await self._sign_ins.exchange(code, attempt)
        cookie, presented = new_cookie(), request.cookies.get(self._cookie)  # always a new one: none can be planted
        login = self._keeping.new_login(cookie, self._sign_ins.issuer, granted, self._now_ms())
        replaced = await self._logins.open(
            login,
            self._actor(request, granted.identity.user_id),
            replaced=None if presented is None else hash_of(presented),
        )
        if replaced is not None:
            await self._refresher.ended(replaced, "replaced")
        logger.info("login.opened", login_id=login.login_id)
        response = RedirectResponse(self._site + attempt.return_to, 303)
        self._set_cookie(response, self._cookie, cookie, int(self._keeping.lifetime_s))
        return response

    async def logout(self, request: Request) -> Response:
        """``POST /auth/logout``: here, and on to the provider. A script gets JSON, a form is sent there."""
        self._refuse_other_sites(request)
        cookie, id_token = request.cookies.get(self._cookie), None
        if cookie is not None:
            found = await self._resolver.look(cookie)
            user_id = "anonymous" if isinstance(found, LoginOver) else found.identity.user_id
            actor = self._actor(request, user_id)
            ended = await self._logins.end(hash_of(cookie), self._now_ms(), "signed_out", actor)
            if ended is not None:
                id_token = await self._refresher.ended(ended, "signed_out")
                logger.info("login.ended", login_id=ended.login_id)
        if request.headers.get("sec-fetch-mode", "navigate") == "navigate":
            response: Response = RedirectResponse(await self._sign_ins.sign_out_url(id_token) or self._site + "/", 303)
        else:  # without the ID token: scripts get none, and the provider asks its user instead
            response = json_response(
                {"signed_in": False, "provider_logout_url": await self._sign_ins.sign_out_url(None)}
            )
        self._set_cookie(response, self._cookie, "", 0)
        self._set_cookie(response, self._browser_cookie, "", 0)
        return response

    async def backchannel_logout(self, request: Request) -> Response:
        """``POST /auth/backchannel-logout``: from the provider (OpenID Connect Back-Channel Logout 1.0)."""
        body = await read_body(request, BACKCHANNEL_MAX_BYTES)
        try:
            given = parse_qs(body.decode(), strict_parsing=True, max_num_fields=8).get("logout_token", [])
            if len(given) != 1:
                raise InvalidToken("there is not exactly one")
            verified = await self._sign_ins.provider.verify(given[0])
            order = checked_logout_token(verified, self._sign_ins.provider.settings.client_ids, self._clock())
        except (ValueError, InvalidToken) as error:
            reason = str(error) if isinstance(error, InvalidToken) else "the body is no form"
            raise BadRequest(f"The logout token does not count: {reason}.", error="invalid_request") from None
        ended = await self._logins.end_by_provider(
            self._sign_ins.issuer,
            order.session,
            order.user_id,
            self._now_ms(),
            order.spending,
            self._actor(request, "system:provider"),
        )
        if ended is None:
            raise BadRequest("The logout token was used before.", error="invalid_request")
        for login in ended:
            await self._refresher.ended(login, "provider")
        logger.info("login.ended_by_provider", logins=len(ended))
        return Response(status_code=200)

    async def session(self, request: Request) -> Response:
        """``GET /auth/session``: who is signed in, and until when. Asking does not keep a login alive."""
        cookie = only_cookie(request, self._cookie)
        if cookie is None:
            return json_response({"signed_in": False})
        login = await self._resolver.look(cookie)
        if isinstance(login, LoginOver):
            raise login_over(login)
        identity = login.identity
        return json_response(
            {
                "signed_in": True,
                "user": {
                    "id": identity.user_id,
                    "username": identity.username,
                    "email": identity.email,
                    "roles": identity.roles,
                    "user_type": user_type_of(identity.roles),
                },
                "signed_in_at": login.opened_ms / 1000,
                "ends_at": login.expires_ms / 1000,
                "ends_unused_at": min(login.idle_until_ms, login.expires_ms) / 1000,
            }
        )

    async def openapi(self, request: Request) -> Response:
        """``GET /auth/openapi.json``"""
        return json_response(openapi_document(importlib.metadata.version("kdcube"), self._cookie))

    async def _check_issuer(self, given: str | None) -> None:
        """The answer must come from the provider that was asked (RFC 9207)."""
        named = (await self._sign_ins.provider.metadata()).authorization_response_iss_parameter_supported
        if given != self._sign_ins.issuer and (given is not None or named):
            raise BadRequest("The answer is not of the identity provider that was asked.", error="other_provider")

    def _refuse_other_sites(self, request: Request) -> None:
        """Only a page of ours may sign people out. A request that does not say where it comes from may not."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site != "same-origin" and origin not in self._origins:
            raise Forbidden("Another site's page may not act for the user.", error="cross_site")

    def _take_token(self, request: Request) -> None:
        wait_s = self._buckets.take(self._addresses.of(request))
        if wait_s:
            raise RateLimited("Too many sign-ins from this address.", retry_after_s=wait_s, error="rate_limit_sign_ins")

    def _actor(self, request: Request, actor: str) -> Actor:
        return Actor(actor, str(self._addresses.of(request)), request_id_of(request))

    def _set_cookie(self, response: Response, name: str, value: str, max_age_s: int) -> None:
        response.headers.append(
            "Set-Cookie",
            f"{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax"
            + ("; Secure" if self._secure else ""),
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _only(request: Request, name: str) -> str | None:
    """A parameter of the query, which must not be there twice: two readers may take different ones."""
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise BadRequest(f"The query has {name} more than once.", field=name)
    return given[0] if given else None

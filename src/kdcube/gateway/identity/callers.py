"""From a request to its Caller: tokens, logins, sessions, cookies."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import Request

from kdcube.config.auth import AuthSettings
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Forbidden, RateLimited, Unauthorised
from kdcube.gateway.exchange import exchange_of, request_id_of
from kdcube.gateway.identity.addresses import Addresses, Openings, network_of
from kdcube.gateway.identity.authenticator import SERVICE, Authenticator, Identity, user_type_of
from kdcube.gateway.identity.cookies import is_https, only_cookie, session_cookie
from kdcube.gateway.identity.key_text import looks_like_key
from kdcube.gateway.identity.logins import LoginCookies, LoginOver, hash_of, login_over
from kdcube.gateway.identity.scopes import scopes_for
from kdcube.gateway.identity.sessions import ANONYMOUS_MAX_AGE_S, AnonymousSession, Sessions
from kdcube.gateway.limits import Limiter
from kdcube.gateway.routing import route_of
from kdcube.postgres.audit import Actor
from kdcube.protocol.turns import UserType

SESSION_HEADER = "User-Session-ID"
SESSION_QUERY = "user_session_id"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class _Tokens(NamedTuple):
    """What one place of the request holds: at least one of the two."""

    token: str | None
    id_token: str | None
    in_header: bool = False
    from_cookie: bool = False


class Callers:
    """Tells who calls. ``allows_origin`` is what CORS says of another site's page."""

    def __init__(
        self,
        auth: AuthSettings,
        authenticator: Authenticator,
        sessions: Sessions,
        *,
        addresses: Addresses,
        openings: Openings,
        limiter: Limiter,
        allows_origin: Callable[[str], bool],
        logins: LoginCookies | None = None,
    ) -> None:
        self._auth = auth
        self._authenticator = authenticator
        self._sessions = sessions
        self._addresses = addresses
        self._openings = openings
        self._limiter = limiter
        self._allows_origin = allows_origin
        self._logins = logins

    async def identify(
        self,
        request: Request,
        *,
        opens: bool = False,
        replaces: bool = False,
        query_tokens: bool = False,
        sends: bool = False,
    ) -> Caller:
        """The caller. A token goes before a login, which goes before a session; one that is not valid, or not any more,
        is refused, never taken for anonymous.

        ``opens``: a caller without credentials becomes a new anonymous user, whose cookie goes with the response.
        ``replaces``: so does one whose anonymous session has expired. ``query_tokens``: tokens may be in the query,
        for an EventSource. ``sends``: admission counts the request; others count here when their path is guarded.
        Raises Unauthorised, Forbidden, RateLimited.
        """
        caller = await self._caller(request, opens=opens, replaces=replaces, query_tokens=query_tokens)
        exchange_of(request).user_type = caller.user_type
        if not sends:
            await self._limiter.count(request, caller)
        return caller

    async def _caller(self, request: Request, *, opens: bool, replaces: bool, query_tokens: bool) -> Caller:
        tokens = self._tokens(request, query_tokens)
        cookie = self._cookie_session(request)
        if tokens is not None:
            if tokens.from_cookie:
                self._refuse_cross_site(request)
            if not tokens.in_header and looks_like_key(tokens.token or ""):
                raise Unauthorised("An API key belongs into the Authorization header.", error="invalid_token")
            identity = await self._authenticator.authenticate(tokens.token, tokens.id_token)
            if identity is None:
                raise Unauthorised("The token is not valid, or not any more.", error="invalid_token")
            if identity.key_id is not None:
                _check_scopes(request, identity)
            return self._signed_in(request, identity, cookie)
        if self._logins is not None and (presented := only_cookie(request, self._logins.name)):
            self._refuse_other_pages(request, self._logins.site)
            login = await self._logins.resolver.resolve(presented)
            if isinstance(login, LoginOver):
                raise login_over(login)
            return self._signed_in(request, login.identity, cookie, login=hash_of(presented))
        if not self._auth.anonymous:
            raise Unauthorised("Sign in: this service does not serve anonymous users.")
        return await self._anonymous(request, cookie, opens=opens, replaces=replaces)

    async def identify_if_any(self, request: Request) -> Caller | None:
        """As ``identify``, for what is public: None for a request that says nothing of who calls."""
        signed_in = self._tokens(request, False) or (self._logins and only_cookie(request, self._logins.name))
        if not signed_in:
            anonymous = self._cookie_session(request) is not None or _presented(request) is not None
            if not (anonymous and self._auth.anonymous):
                return None
        return await self.identify(request)

    async def administrator(self, request: Request) -> Caller:
        """The caller, who is an administrator. Raises Unauthorised for one who has not signed in, else Forbidden.

        Never RateLimited: a rate that was set wrong is mended here.
        """
        caller = await self.identify(request, sends=True)
        if caller.anonymous:
            raise Unauthorised("Sign in as an administrator.")
        if caller.user_type is not UserType.PRIVILEGED:
            raise Forbidden("This is for administrators.", error="not_administrator")
        return caller

    def actor(self, request: Request, caller: Caller) -> Actor:
        """``caller`` as the audit log names who acts by ``request``."""
        return Actor(caller.user_id, str(self._addresses.of(request)), request_id_of(request))

    def _signed_in(
        self, request: Request, identity: Identity, cookie: AnonymousSession | None, *, login: bytes | None = None
    ) -> Caller:
        if identity.key_id is None and identity.user_id.startswith(SERVICE):
            raise Unauthorised("Only API keys prove services: the user's id is reserved.", error="invalid_token")
        presented = _presented(request)
        if presented is not None and not self._sessions.belongs(presented, identity.user_id):
            raise Forbidden("User-Session-ID must belong to the caller.", error="foreign_session", field=SESSION_QUERY)
        return Caller(
            user_id=identity.user_id,
            user_type=identity.user_type or user_type_of(identity.roles),
            roles=identity.roles,
            session_id=presented or self._sessions.of_user(identity.user_id),
            username=identity.username,
            email=identity.email,
            anonymous_user_id=cookie.user_id if cookie and identity.key_id is None else None,
            key_id=identity.key_id,
            login=login,
        )

    async def _anonymous(
        self, request: Request, cookie: AnonymousSession | None, *, opens: bool, replaces: bool
    ) -> Caller:
        session = cookie
        presented = _presented(request)
        if presented is not None:
            session = self._sessions.anonymous(presented)
            if session is None and not replaces:
                raise Unauthorised("The session is not valid, or not any more: ask /profile for one.")
            if session and cookie and session.user_id != cookie.user_id:
                raise Forbidden(
                    "User-Session-ID must belong to the caller.", error="foreign_session", field=SESSION_QUERY
                )
            session = session or cookie
        elif cookie is not None:
            self._refuse_cross_site(request)
        if session is None:
            if not opens:
                raise Unauthorised("Sign in, or ask /profile for a session.")
            session = await self._open(request)
        elif replaces and self._sessions.due(session):
            session = self._sessions.renewed(session)
            _set_cookie(request, session)
        elif replaces and cookie is None:
            _set_cookie(request, session)
        address = self._addresses.of(request)
        counted = None if address.is_loopback else network_of(address)
        return Caller(session.user_id, UserType.ANONYMOUS, (), session.session_id, address=counted)

    async def _open(self, request: Request) -> AnonymousSession:
        wait_s = await self._openings.take(self._addresses.of(request))
        if wait_s:
            raise RateLimited(
                "Too many anonymous sessions were opened from this address.",
                retry_after_s=wait_s,
                error="rate_limit_sessions",
            )
        session = self._sessions.open_anonymous()
        _set_cookie(request, session)
        return session

    def _tokens(self, request: Request, query: bool) -> _Tokens | None:
        """Those of the first place that has any: headers, query, cookies. Places are never mixed: a cookie may be of
        somebody who was signed in here before.
        """
        for name in ("authorization", self._auth.id_token_header):
            if len(request.headers.getlist(name)) > 1:  # proxies and services could take different ones
                raise Unauthorised(f"There is more than one header {name}.", error="invalid_token")
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        bearer = value.strip() if scheme.lower() == "bearer" else None
        id_token = request.headers.get(self._auth.id_token_header) or None
        if bearer is not None or id_token:
            return _Tokens(bearer, id_token, in_header=True)
        if query:
            given = request.query_params
            if tokens := _tokens_of(given.get("bearer_token"), given.get("id_token")):
                return tokens
        token, id_token = (only_cookie(request, name) for name in (self._auth.token_cookie, self._auth.id_token_cookie))
        return _tokens_of(token, id_token, from_cookie=True)

    def _cookie_session(self, request: Request) -> AnonymousSession | None:
        value = only_cookie(request, session_cookie(request))
        return self._sessions.anonymous(value) if value else None

    def _refuse_other_pages(self, request: Request, site: str) -> None:
        """As below, and stricter: the pages of a sibling host are not the user's either."""
        came, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if request.method in _SAFE_METHODS or came in {"same-origin", "none"} or (came is None and origin is None):
            return
        if origin != site and not self._allows_origin(origin or ""):
            raise Forbidden("Another site's page may not act for the user.", error="cross_site")

    def _refuse_cross_site(self, request: Request) -> None:
        """A cookie comes along without the user's will: another site's page must not change anything by it.

        Browsers that do not say how the page is related say where it is from.
        """
        came, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if request.method in _SAFE_METHODS or (came is None and origin is None):
            return
        elsewhere = came == "cross-site" if came is not None else not _is_own(request, origin or "")
        if elsewhere and not self._allows_origin(origin or ""):
            raise Forbidden("Another site's page may not act for the user.", error="cross_site")


def _tokens_of(token: str | None, id_token: str | None, *, from_cookie: bool = False) -> _Tokens | None:
    return _Tokens(token or None, id_token or None, from_cookie=from_cookie) if token or id_token else None


def _check_scopes(request: Request, identity: Identity) -> None:
    """Raises Forbidden where the API key is not for this route."""
    needed = scopes_for(request.method, route_of(request))
    if needed.isdisjoint(identity.scopes):
        remedy = f"it takes a key with the scope {' or '.join(sorted(needed))}" if needed else "it takes no API key"
        raise Forbidden(f"The API key is not for this: {remedy}.", error="insufficient_scope")


def _is_own(request: Request, origin: str) -> bool:
    """Whether a page of ``origin`` was served by the host that is asked."""
    return origin.partition("//")[2] == request.headers.get("host")


def _presented(request: Request) -> str | None:
    """The session id that the client names, apart from the cookie."""
    return request.headers.get(SESSION_HEADER) or request.query_params.get(SESSION_QUERY) or None


def _set_cookie(request: Request, session: AnonymousSession) -> None:
    exchange_of(request).set_cookie = (
        f"{session_cookie(request)}={session.session_id}; Path=/; Max-Age={ANONYMOUS_MAX_AGE_S}; HttpOnly; SameSite=Lax"
        + ("; Secure" if is_https(request) else "")
    )

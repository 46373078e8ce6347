"""A stand-in for an Amazon Cognito user pool with its hosted pages, in the shapes that Amazon documents: no place for
user info or for signing out in its discovery document, groups in ``cognito:groups``, refresh tokens that do not rotate,
and a logout of its own kind. Keys and signatures are those of the real provider of the tests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from tests.openid.provider import OpenIdProvider

POOL = "eu-west-1_AbCdEf123"
CLIENT, SECRET = "app", "the app client's secret"
SUB = "3255a4c4-10c1-70b5-8d5f-6b3a2f1c9e07"


class UserPool:
    """With one user, paula, who is let in without being asked."""

    def __init__(self, provider: OpenIdProvider, domain: str) -> None:
        self.domain = domain
        self.issuer = f"{domain}/{POOL}"
        self.groups = ["kdcube:role:paid"]
        self.gives_id_tokens = True
        self.revoked: list[str] = []
        self._provider = provider
        self._keys = [key for key in provider.public_keys() if key["kty"] == "RSA"]
        self._codes: dict[str, dict[str, str]] = {}
        self._refresh_token = secrets.token_urlsafe(32)
        self.app = Starlette(
            routes=[
                Route(f"/{POOL}/.well-known/openid-configuration", self._discovery),
                Route(f"/{POOL}/.well-known/jwks.json", self._jwks),
                Route("/oauth2/authorize", self._authorize),
                Route("/oauth2/token", self._token, methods=["POST"]),
                Route("/oauth2/revoke", self._revoke, methods=["POST"]),
                Route("/logout", self._logout),
            ]
        )

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse(
            {
                "authorization_endpoint": f"{self.domain}/oauth2/authorize",
                "id_token_signing_alg_values_supported": ["RS256"],
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
                "response_types_supported": ["code", "token"],
                "revocation_endpoint": f"{self.domain}/oauth2/revoke",
                "scopes_supported": ["openid", "email", "phone", "profile"],
                "subject_types_supported": ["public"],
                "token_endpoint": f"{self.domain}/oauth2/token",
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            }
        )

    async def _jwks(self, request: Request) -> Response:
        members = ("alg", "e", "kid", "kty", "n", "use")
        return JSONResponse({"keys": [{name: key[name] for name in members} for key in self._keys]})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if asked["client_id"] != CLIENT or asked["code_challenge_method"] != "S256":
            return JSONResponse({"error": "invalid_request"}, 400)
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    async def _token(self, request: Request) -> Response:
        form = await self._form(request)
        if form is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        answer = {"access_token": self._minted(token_use="access", client_id=CLIENT, username="paula", aud=None)}
        nonce: dict[str, str] = {}
        if form["grant_type"] == "authorization_code":
            asked = self._codes.pop(form["code"], {})
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if challenge != asked.get("code_challenge") or form["redirect_uri"] != asked["redirect_uri"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            answer["refresh_token"] = self._refresh_token
            nonce = {"nonce": asked["nonce"]}
        elif form["refresh_token"] != self._refresh_token or self._refresh_token in self.revoked:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if self.gives_id_tokens:
            person = {"cognito:username": "paula", "email": "paula@example.org", "email_verified": True}
            answer["id_token"] = self._minted(token_use="id", aud=CLIENT, client_id=None, **person, **nonce)
        return JSONResponse({**answer, "expires_in": 3600, "token_type": "Bearer"})

    async def _revoke(self, request: Request) -> Response:
        form = await self._form(request)
        if form is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        self.revoked.append(form["token"])
        return Response()

    async def _logout(self, request: Request) -> Response:
        given = request.query_params
        if set(given) != {"client_id", "logout_uri"} or given["client_id"] != CLIENT:
            return JSONResponse({"error": "Required String parameter 'redirect_uri' is not present"}, 400)
        return RedirectResponse(given["logout_uri"], 302)

    async def _form(self, request: Request) -> dict[str, str] | None:
        """None for another client, or one that does not prove itself."""
        told = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
        if [unquote(part) for part in told.split(":", 1)] != [CLIENT, SECRET]:
            return None
        return {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}

    def _minted(self, **claims: Any) -> str:
        common = {"iss": self.issuer, "sub": SUB, "cognito:groups": self.groups, "auth_time": 1}
        return self._provider.mint({**common, **claims}, header={"typ": None})


@asynccontextmanager
async def open_user_pool(provider: OpenIdProvider) -> AsyncGenerator[UserPool]:
    """Listens on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = UserPool(provider, f"http://127.0.0.1:{listener.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(pool.app, lifespan="off", log_config=None, access_log=False))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield pool
        finally:
            server.should_exit = True
            await serving

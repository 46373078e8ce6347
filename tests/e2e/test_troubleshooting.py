"""docs/troubleshooting.md: each text that it names as a symptom is one that the product prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Stack
from tests.integration.proc.bundles.packages import make_sdist

from kdcube.breaker import Breaker
from kdcube.config.auth import AuthSettings
from kdcube.config.load import load
from kdcube.gateway.adopting import unreadable
from kdcube.gateway.documents import InvalidDocument, resolved
from kdcube.gateway.identity.documents import Documents
from kdcube.gateway.identity.openid import OpenIdProvider
from kdcube.local import bundles
from kdcube.local.bundle_talk import told_by
from kdcube.local.home import Home
from kdcube.local.ports import free_port
from kdcube.local.proxy import NginxMissing, find_nginx
from kdcube.postgres.gateway_configs import StoredConfig
from kdcube.proc.bundles.host import HostLimits
from kdcube.protocol.errors import ConfigurationError
from kdcube.sdk import Bundle, Turn
from kdcube.sdk.loading import LoadError, load_bundle
from kdcube.sdk.testing import run_turn

ROOT = Path(__file__).parents[2]
SYMPTOMS = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
HEAD = "from kdcube.sdk import Bundle\nbundle = Bundle('mine@1.0.0')\n@bundle.on_message\nasync def answer(turn): ...\n"


class Trouble:
    """Somebody to whom it happens."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder = folder
        self.stack = stack

    def kdcube(self, *args: str, port: int | None = None, **variables: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KDCUBE_HOME": str(self.folder / "home")}
        env["KDCUBE_PORT"] = str(port or free_port(1, 10, 30, 31, 40, 80, 90, 91))
        env |= variables
        command = [sys.executable, "-m", "kdcube.cli.main", *args]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode in (1, 2), done.stdout
        return done.stdout + done.stderr

    def make(self, python: str) -> str:
        (self.folder / "python").write_text(f"#!/bin/sh\n{python}\n")
        (self.folder / "python").chmod(0o755)
        (self.folder / "requirements").mkdir()
        for name in ("dev", "bootstrap"):
            (self.folder / "requirements" / f"{name}.txt").touch()
        (self.folder / "pyproject.toml").touch()
        command = ["make", "-f", str(ROOT / "Makefile"), "up", f"PYTHON={self.folder}/python"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        return done.stderr

    def bundle(self, code: str) -> str:
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "bundle.py").write_text(code)
        return str(self.folder / "mine")

    def only_wheels(self) -> str:
        make_sdist(self.folder / "packages", "unbuilt", "1.0")
        path = self.bundle(HEAD)
        (self.folder / "mine" / "requirements.txt").write_text("unbuilt\n")
        found = {"UV_FIND_LINKS": str(self.folder / "packages"), "UV_OFFLINE": "1"}
        return self.kdcube("bundles", "check", path, UV_NO_BUILD="1", **found)

    def no_environment(self) -> str:
        path = self.bundle(HEAD)
        (self.folder / "mine" / "uv.lock").touch()
        return self.kdcube("bundles", "check", path)

    def port_taken(self) -> str:
        port = free_port(1, 10, 30, 31, 40, 80, 90, 91)
        with socket.create_server(("127.0.0.1", port)):
            return self.kdcube("up", port=port)

    def home_taken(self) -> str:
        with Home(self.folder / "home").locked():
            return self.kdcube("up")

    def other_id(self) -> str:
        try:
            load_bundle(self.bundle(HEAD), None, "mine@2.0.0")
        except LoadError as error:
            return str(error)
        raise AssertionError("it loads")

    def slow(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bundles, "HostLimits", lambda: HostLimits(load_timeout_s=0.0))
            return str(asyncio.run(bundles.check_bundle(Path(self.bundle(HEAD)))).problems[0])

    def failing(self, handler: Callable[[Turn], object]) -> str:
        bundle = Bundle("mine@1.0.0")

        @bundle.on_message
        async def answer(turn: Turn) -> None:
            handler(turn)

        result = asyncio.run(run_turn(bundle))
        assert result.error is not None
        return f"{result.error.message}\n{result.error.detail}"

    def too_late(self) -> str:
        bundle = Bundle("mine@1.0.0")
        said: list[Turn] = []

        @bundle.on_message
        async def answer(turn: Turn) -> None:
            said.append(turn)

        async def later() -> str:
            await run_turn(bundle)
            try:
                await said[0].delta("more")
            except ValueError as error:
                return str(error)
            raise AssertionError("it was taken")

        return asyncio.run(later())

    def other_issuer(self) -> str:
        """As the provider is told of it, that calls itself otherwise."""
        told = {"issuer": "https://id.example.org/", "jwks_uri": "https://id.example.org/jwks"}
        given = {"AUTH_PROVIDER": "oidc", "OIDC_ISSUER": "https://id.example.org", "OIDC_CLIENT_ID": "chat"}
        settings = load(AuthSettings, given).openid
        assert settings is not None

        async def ask() -> str:
            transport = httpx.MockTransport(lambda _: httpx.Response(200, json=told))
            async with httpx.AsyncClient(transport=transport) as http:
                try:
                    await OpenIdProvider(settings, Documents(http, Breaker("identity_provider"))).metadata()
                except ConfigurationError as error:
                    return str(error)
            raise AssertionError("it is believed")

        return asyncio.run(ask())

    def no_nginx(self) -> str:
        try:
            find_nginx(str(self.folder), beside=str(self.folder))
        except NginxMissing as error:
            return str(error)
        raise AssertionError("there is one")

    def unreadable(self) -> str:
        stored = StoredConfig(3, {}, "", "root", "put", None, 0)
        try:
            resolved({"tenant": "t", "project": "p", "limits": {"max_dreams": 1}}, ("t", "p"))
        except InvalidDocument as error:
            return unreadable(stored, error)
        raise AssertionError("it can be read")


def _refusal(**variables: str) -> str:
    """What a service says that is started with these."""
    try:
        load(AuthSettings, variables)
    except ConfigurationError as error:
        return str(error)
    raise AssertionError("it starts")


def _log(**line: str) -> str:
    return told_by(json.dumps({"bundle": "mine@1.0.0", **line})) or ""


def _quits(_: Turn) -> None:
    """As pdb does whose standard input is at its end."""
    done = subprocess.run(
        [sys.executable, "-c", "breakpoint()\n0"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    raise RuntimeError(done.stderr)


PROVOKED: dict[str, Callable[[Trouble], str]] = {
    "kdcube needs Python": lambda it: it.make("exit 1"),
    "this Python makes no": lambda it: it.make('case "$*" in *ensurepip*) exit 1;; esac'),
    "port …": Trouble.port_taken,
    "the data folder": Trouble.home_taken,
    "GATEWAY_CONFIG_JSON: …": lambda it: it.kdcube(
        "up", GATEWAY_CONFIG_JSON='{"tenant": "t", "project": "p", "limits": {"max_que_size": 1}}'
    ),
    "…: is not set": lambda _: _refusal(AUTH_PROVIDER="oidc"),
    "AUTH_PROVIDER: is …": lambda _: _refusal(AUTH_PROVIDER="openid"),
    "OIDC_ISSUER: is …": Trouble.other_issuer,
    "version …": Trouble.unreadable,
    "nginx is not installed": Trouble.no_nginx,
    "the bundle …": lambda it: it.kdcube("up", "--bundle", it.bundle("import nowhere")),
    "ModuleNotFoundError": lambda it: it.kdcube("bundles", "check", it.bundle("import nowhere")),
    "its environment": Trouble.no_environment,
    "Only wheels": Trouble.only_wheels,
    "KeyError": lambda it: it.kdcube("bundles", "check", it.bundle("import os\nos.environ['KEY']")),
    "does not load, the version": lambda _: _log(event="bundle_not_reloaded", reason="SyntaxError: …"),
    "the code says": Trouble.other_id,
    "takes more than": Trouble.slow,
    "nothing listens at": lambda it: it.kdcube("chat", "hello"),
    "there is no bundle": lambda it: it.kdcube("chat", "hello", "--bundle", "no@1", "--url", it.stack.ingress[0]),
    "The assistant failed": lambda it: it.failing(lambda turn: 1 / 0),
    "the turn has ended": Trouble.too_late,
    "the secret": lambda it: it.failing(lambda turn: turn.secret("KEY")),
    "its process ended (": lambda _: _log(event="host_lost", reason="crash"),
    "bdb.BdbQuit": lambda it: it.failing(_quits),
}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_a_symptom_is_what_the_product_says(symptom, tmp_path, stack):
    (provoke,) = [provoke for name, provoke in PROVOKED.items() if symptom.startswith(name)]
    said = provoke(Trouble(tmp_path, stack))
    pattern = ".+".join(re.escape(part) for part in symptom.split("…"))
    assert re.search(pattern, said), said


def test_nothing_is_provoked_in_vain():
    assert len(PROVOKED) == len(SYMPTOMS)

"""What keeps `kdcube up` from starting is told in one line, and leaves nothing behind."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from kdcube.local.home import Home
from kdcube.local.ports import free_port
from kdcube.local.valkey import ask

URL_OF_NOTHING = "postgresql://postgres@127.0.0.1:1/kdcube"


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.fullmatch(r"kdcube: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def test_a_port_in_use(kdcube):
    first = free_port(1, 10, 30, 31, 40, 80, 90, 91)
    with socket.create_server(("127.0.0.1", first + 10)):
        line = refused(kdcube("up", KDCUBE_PORT=str(first)))
    assert f"port {first + 10}, for proc-0, is in use by another program" in line
    assert f"KDCUBE_PORT={first + 1000}" in line


def test_a_port_in_use_in_the_background(kdcube):
    first = free_port(1, 10, 30, 31, 40, 80, 90, 91)
    with socket.create_server(("127.0.0.1", first)):
        line = refused(kdcube("up", "--detach", KDCUBE_PORT=str(first)))
    assert f"port {first}, for ingress-0, is in use" in line


def test_a_port_of_the_proxy_in_use(kdcube):
    first = free_port(1, 10, 30, 31, 40, 70, 80, 90, 91)
    with socket.create_server(("127.0.0.1", first + 70)):
        line = refused(kdcube("up", "--proxy", KDCUBE_PORT=str(first)))
    assert f"port {first + 70}, for the proxy, is in use" in line


def test_a_certificate_that_is_not_there(kdcube):
    done = kdcube("up", "--proxy", KDCUBE_PROXY_TLS="given", KDCUBE_PROXY_CERTIFICATE="/nowhere.pem")
    assert done.returncode == 2
    assert "KDCUBE_PROXY_CERTIFICATE is /nowhere.pem, which is no file" in done.stderr


def test_a_locked_data_folder(kdcube, home):
    with Home(home).locked():
        assert f"the data folder {home} is in use by another `kdcube up`" in refused(kdcube("up"))


def test_a_data_folder_that_cannot_be_made(kdcube, tmp_path):
    (tmp_path / "file").touch()
    line = refused(kdcube("up", "--detach", KDCUBE_HOME=str(tmp_path / "file" / "home")))
    assert "cannot be used: Not a directory" in line


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def", "SyntaxError"),
        ("import os; os._exit(7)", "its process ended with code 7"),
        ("print('no bundle')", "defines no `bundle`"),
        (None, "does not exist"),
    ],
)
def test_a_bundle_that_does_not_load(kdcube, tmp_path: Path, code, told):
    folder = tmp_path / "mine"
    if code is not None:
        folder.mkdir()
        (folder / "bundle.py").write_text(code)
    line = refused(kdcube("up", "--bundle", str(folder)))
    assert f"the bundle {folder} does not load: " in line
    assert told in line


def test_a_file_of_tokens_that_is_none(kdcube, tmp_path):
    (tmp_path / "users.json").write_text('{"token": 1}')
    line = refused(kdcube("up", "--auth", str(tmp_path / "users.json")))
    assert "cannot start: kdcube-ingress: IDP_DB_PATH: " in line


def test_a_setting_that_only_a_service_reads(kdcube):
    assert "CORS_CONFIG: x: unknown field" in refused(kdcube("up", CORS_CONFIG='{"x": 1}'))


def test_a_valkey_that_may_evict(kdcube, valkey_server, valkey_url):
    ask(valkey_server.port, "CONFIG SET maxmemory-policy volatile-lru")
    try:
        line = refused(kdcube("up", "--redis-url", valkey_url, "--database-url", URL_OF_NOTHING))
    finally:
        ask(valkey_server.port, "CONFIG SET maxmemory-policy noeviction")
    assert "REDIS_URL: the server may evict keys (maxmemory-policy volatile-lru); set maxmemory-policy to" in line


def test_a_valkey_that_is_not_there(kdcube):
    url = f"redis://127.0.0.1:{free_port()}/0"
    assert "valkey: cannot connect" in refused(kdcube("up", "--redis-url", url, "--database-url", URL_OF_NOTHING))


def test_a_postgres_that_is_not_there(kdcube, valkey_url):
    assert "postgres: " in refused(kdcube("up", "--redis-url", valkey_url, "--database-url", URL_OF_NOTHING))


@pytest.mark.parametrize(
    ("args", "variables"),
    [
        (["up", "--ingress", "0"], {}),
        (["up", "--ingress", "11"], {}),
        (["up", "--proc", "many"], {}),
        (["up", "--slots", "0"], {}),
        (["up", "--auth", "/nowhere/users.json"], {}),
        (["up", "--no-such-flag"], {}),
        (["up", "surplus"], {}),
        (["up", "--database-url", "postgresql://127.0.0.1:http/x"], {}),
        (["db", "upgrade", "--database-url", "mysql://127.0.0.1/x"], {}),
        (["up"], {"KDCUBE_PORT": "eighty"}),
        (["up"], {"AGENTIC_BUNDLES_JSON": "{"}),
        (["up"], {"GATEWAY_CONFIG_JSON": "{}"}),
        (["no-such-command"], {}),
        (["logs", "nothing"], {}),
        (["db", "upgrade"], {}),
    ],
)
def test_bad_input_is_exit_code_2(kdcube, args, variables):
    done = kdcube(*args, **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout + done.stderr
    assert "Traceback" not in done.stderr

"""The ways to a server that asks for more than an address: TLS, passwords and users, Unix sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.certificates import Certificate, make_authority, make_certificate
from tests.integration.redis.test_subscriber import Ear, both

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.valkey import valkey_program
from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.connection import open_blocking_connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.renewal import Renewal, Renewed

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss/w#rd%?"
USER, USERS_PASSWORD = "ann", "s3cret:word"
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Secured:
    """A server with a certificate for ``localhost``, a password, and a user of its own."""

    port: int
    socket: Path
    authority: Certificate
    stranger: Certificate
    """An authority that did not sign the server's certificate."""

    def url(self, way: str, *, password: str | None = None, authority: Path | None = None) -> str:
        """``tls``, ``tls-user``, ``unix`` or ``unix-user``."""
        transport, _, user = way.partition("-")
        name, right = (USER, USERS_PASSWORD) if user else ("", PASSWORD)
        sign_in = f"{name}:{quote(right if password is None else password, safe='')}"
        if transport == "unix":
            return f"unix://{sign_in}@{self.socket}"
        trusted = quote(str(authority or self.authority.certificate))
        return f"rediss://{sign_in}@localhost:{self.port}/0?ssl_ca_certs={trusted}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Redis of the system: the embedded Valkey is built without TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("redis-server is not installed: run the tests by `make test`, or apt-get install redis-server")
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = make_authority(folder, "authority"), make_authority(folder, "stranger")
    own = make_certificate(folder, authority, "localhost")
    secured = Secured(free_port(), folder / "s", authority, stranger)
    program = valkey_program(folder, 0, binary)
    options = (
        *("--tls-port", str(secured.port), "--tls-auth-clients", "no", "--unixsocket", str(secured.socket)),
        *("--tls-cert-file", str(own.certificate), "--tls-key-file", str(own.key)),
        *("--tls-ca-cert-file", str(authority.certificate)),
        *("--requirepass", PASSWORD, "--user", USER, "on", f">{USERS_PASSWORD}", "~*", "&*", "+@all"),
    )
    child = process.start(dataclasses.replace(program, argv=(*program.argv, *options)), folder / "log")
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while b"Ready to accept connections" not in (folder / "log").read_bytes():
            assert child.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.02)
        yield secured
    finally:
        process.stop(child, signal.SIGTERM, grace_s=10)


WAYS = ["tls", "tls-user", "unix", "unix-user"]


@pytest.mark.parametrize("way", WAYS)
async def test_commands_of_any_size(server, way):
    payload = bytes(range(256)) * 16_384  # 4 MiB: many records of TLS
    async with open_connection(server.url(way), name="test") as connection:
        replies = await asyncio.gather(*(connection.call("ECHO", f"{n}") for n in range(1000)))
        assert replies == [b"%d" % n for n in range(1000)]
        await connection.call("SET", "big", payload)
        assert await connection.call("GET", "big") == payload
        who = await connection.call("ACL", "WHOAMI")
        assert who == (USER.encode() if "user" in way else b"default")
        assert await connection.call("CLIENT", "GETNAME") == b"test"


@pytest.mark.parametrize("way", WAYS)
async def test_what_blocks(server, way):
    async with (
        open_connection(server.url(way), name="test") as connection,
        open_blocking_connection(server.url(way), name="waits") as waiting,
    ):
        assert await waiting.blpop("bell", 0.01) is None
        ring = asyncio.create_task(waiting.blpop("bell", 30))
        await connection.call("RPUSH", "bell", "ring")
        assert await ring == b"ring"


@pytest.mark.parametrize("way", WAYS)
async def test_a_socket_that_is_lost_comes_back_and_channels_with_it(server, way):
    async with both(server.url(way)) as (connection, subscriber):
        ear = Ear()
        subscriber.subscribe("channel", ear)
        await ear.until(1)
        await connection.call("PUBLISH", "channel", "before")
        await ear.until(2)
        await connection.call("CLIENT", "KILL", "SKIPME", "no")
        assert await ear.until(3) == [None, b"before", None]
        await connection.wait_connected(30)
        await connection.call("PUBLISH", "channel", "after")
        assert (await ear.until(4))[-1] == b"after"


@pytest.mark.parametrize("way", WAYS)
async def test_leases_are_renewed(server, way):
    renewal = Renewal(
        server.url(way), Keys("t", "p"), worker_id="w", lease_s=15, heartbeat_ttl_s=15, epoch=lambda: 1,
        describe=lambda: (1, {}), timeout_s=20,
    )  # fmt: skip
    assert await asyncio.to_thread(renewal.renew, {}) == Renewed(frozenset(), frozenset())
    renewal.close()


async def refused(url: str) -> str:
    """What somebody who cannot connect is told."""
    with pytest.raises(StoreUnavailable) as caught:
        async with open_connection(url, name="test"):
            pass
    told = str(caught.value)
    for secret in (PASSWORD, quote(PASSWORD, safe=""), USERS_PASSWORD, quote(USERS_PASSWORD, safe=""), "wr0ng"):
        assert secret not in told
    return told


async def test_a_certificate_of_a_strange_authority(server):
    told = await refused(server.url("tls", authority=server.stranger.certificate))
    assert told.startswith(f"valkey: cannot connect to rediss://localhost:{server.port}/0: ")
    assert "certificate verify failed: self-signed certificate in certificate chain" in told


async def test_without_a_file_the_machines_authorities_count(server):
    told = await refused(server.url("tls").partition("?")[0])
    assert "certificate verify failed" in told


async def test_a_certificate_for_another_name(server):
    told = await refused(server.url("tls").replace("@localhost", "@127.0.0.1"))
    assert "certificate is not valid for '127.0.0.1'" in told


@pytest.mark.parametrize(
    ("file", "why"),
    [("absent.pem", "No such file or directory"), ("authority.key", "NO_CERTIFICATE_OR_CRL_FOUND")],
)
async def test_a_file_without_certificates(server, file, why):
    path = server.authority.certificate.with_name(file)
    told = await refused(server.url("tls", authority=path))
    assert f"REDIS_URL: cannot read the certificates in {path}: " in told
    assert why in told


@pytest.mark.parametrize("way", WAYS)
async def test_a_wrong_password(server, way):
    assert "WRONGPASS invalid username-password pair" in await refused(server.url(way, password="wr0ng"))


@pytest.mark.parametrize("way", ["tls", "unix"])
async def test_no_password(server, way):
    assert "NOAUTH" in await refused(server.url(way).replace(f":{quote(PASSWORD, safe='')}@", ""))


async def test_tls_that_the_url_does_not_ask_for(server):
    assert await refused(server.url("tls").replace("rediss:", "redis:").partition("?")[0])


async def test_a_socket_that_is_not_there(server):
    told = await refused(server.url("unix") + ".absent")
    assert told == f"valkey: cannot connect to unix://{server.socket}.absent: [Errno 2] No such file or directory"

"""The ways to a server that asks for more than an address: TLS, a password, a Unix socket."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.certificates import Certificate, make_authority, make_certificate
from tests.conftest import StoreServer

from kdcube.config.environment import Environment
from kdcube.config.service import read_database_url
from kdcube.local.ports import free_port
from kdcube.local.postgres import STOP_SIGNAL, Postgres
from kdcube.local.process import unprivileged_account
from kdcube.postgres.database import open_database
from kdcube.postgres.locks import Leadership
from kdcube.postgres.migrate import migrate
from kdcube.protocol.errors import StoreUnavailable

pytestmark = pytest.mark.anyio

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@dataclass(frozen=True)
class Secured:
    """A server with a password that listens on ``port``, with TLS on ``tls_port``, and in the folder ``socket``."""

    port: int
    tls_port: int
    socket: Path
    password: str
    authority: Certificate
    """Of the certificate, which is for ``localhost``."""
    stranger: Certificate

    def dsn(self, way: str, *, password: str | None = None, authority: Path | None = None) -> str:
        """``tls``, ``plain`` or ``unix``."""
        sign_in = f"postgres:{quote(password or self.password, safe='')}"
        if way == "unix":
            return f"postgresql://{sign_in}@/kdcube?host={quote(str(self.socket), safe='')}&port={self.port}"
        if way == "plain":
            return f"postgresql://{sign_in}@localhost:{self.port}/kdcube"
        trusted = quote(str(authority or self.authority.certificate), safe="")
        return f"postgresql://{sign_in}@localhost:{self.tls_port}/kdcube?sslmode=verify-full&sslrootcert={trusted}"


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("pg")
    server = Postgres(folder, free_port())
    server.prepare()
    socket = folder / "s"
    socket.mkdir()
    account = unprivileged_account(folder / "data")
    if account is not None:
        os.chown(socket, account.uid, account.gid)
    program = server.program()
    program = dataclasses.replace(program, argv=(*program.argv, "-c", f"unix_socket_directories={socket}"))
    running = StoreServer(program, server.dsn, server.port, server.answers, STOP_SIGNAL, folder / "log")
    try:
        password = (folder / "password").read_text()
        authority, stranger = make_authority(folder, "authority"), make_authority(folder, "stranger")
        yield Secured(server.port, free_port(), socket, password, authority, stranger)
    finally:
        running.close()


@pytest.fixture
async def server(plain_server: Secured) -> AsyncGenerator[Secured]:
    """The embedded PostgreSQL is built without TLS: a front does that part of the protocol for it."""
    own = make_certificate(plain_server.socket.parent, plain_server.authority, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                back, out = await asyncio.open_connection("127.0.0.1", plain_server.port)
                await asyncio.gather(_copy(reader, out), _copy(back, writer))
        writer.close()

    async with await asyncio.start_server(serve, "localhost", plain_server.tls_port):
        yield plain_server


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.mark.parametrize("way", ["tls", "unix"])
async def test_everything_that_connects(server: Secured, way: str) -> None:
    dsn = server.dsn(way)
    await migrate(dsn)
    async with open_database(dsn, name="test") as database:
        assert await asyncio.gather(*(database.fetch_one("select 1") for _ in range(20)))
        row = await database.fetch_one("select inet_server_addr() is null as unix, repeat('x', 300000) as long")
        assert row is not None
        assert (row["unix"], len(row["long"])) == (way == "unix", 300_000)
    async with Leadership(dsn, "t", "p", "test") as leadership:
        assert await leadership.try_acquire()


async def test_a_folder_may_be_the_host_of_an_environment_file(server: Secured) -> None:
    variables = {
        "POSTGRES_HOST": str(server.socket),
        "POSTGRES_PORT": str(server.port),
        "POSTGRES_PASSWORD": server.password,
    }
    async with open_database(read_database_url(Environment(variables))) as database:
        await database.ping()


async def refused(dsn: str, password: str) -> str:
    """What somebody who cannot connect is told."""
    with pytest.raises(StoreUnavailable) as caught:
        async with open_database(dsn):
            pass
    assert password not in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    return str(caught.value)


async def test_a_certificate_of_a_strange_authority(server: Secured) -> None:
    told = await refused(server.dsn("tls", authority=server.stranger.certificate), server.password)
    assert told.startswith(f"postgres: cannot connect to localhost:{server.tls_port}, database kdcube: ")
    assert "certificate verify failed: unable to get local issuer certificate" in told


async def test_a_certificate_for_another_name(server: Secured) -> None:
    told = await refused(server.dsn("tls").replace("@localhost", "@127.0.0.1"), server.password)
    assert "certificate is not valid for '127.0.0.1'" in told


@pytest.mark.parametrize("way", ["tls", "unix", "plain"])
async def test_a_wrong_password(server: Secured, way: str) -> None:
    told = await refused(server.dsn(way, password="wr0ng"), server.password)
    assert told.endswith(': password authentication failed for user "postgres"')


async def test_a_server_without_tls(server: Secured) -> None:
    told = await refused(server.dsn("plain") + "?sslmode=require", server.password)
    assert "rejected SSL upgrade" in told


async def test_a_socket_that_is_not_there(server: Secured) -> None:
    told = await refused(server.dsn("unix").replace(f"port={server.port}", "port=1"), server.password)
    assert told.startswith(f"postgres: cannot connect to {server.socket}:1, database kdcube: [Errno 2] No such file")

"""A deployment by compose on a real engine: through the proxy with TLS, with containers killed and a disk full."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import sync_playwright
from tests.e2e.test_signing_in import ARGS, Person
from tests.engine import stand_ins
from tests.engine.engine import Engine, an_engine
from tests.engine.loopback import passed_on
from tests.eventually import eventually
from tests.openid.provider import OpenIdProvider

from kdcube import __version__
from kdcube.client import Client, Reading, Refused
from kdcube.local.ports import free_port

pytestmark = pytest.mark.timeout(420)  # the first makes the images

SERVICES = ("ingress", "proc", "proxylogin", "metrics", "web-proxy", "valkey", "postgres")
DISK_BYTES = 256 << 20
BUNDLE = '''\
"""Says back what it hears, slowly; what it had said before it was cut short, it says again."""

import asyncio

from kdcube.sdk import Bundle, Turn

bundle = Bundle("slow@1.0.0", max_attempts=5)


@bundle.on_message
async def answer(turn: Turn) -> None:
    for word in turn.text.split():
        await turn.delta(word + " ")
        await asyncio.sleep(0.2)
'''
TEXT = "one two three four five six seven eight nine ten"


SECRETS = {
    "session": "a-secret-of-sessions-" + "s" * 20,
    "postgres_password": "p@ss/w:rd #1",
    "valkey_password": "v@lk/ey:%",
    "encryption_keys": "1a" * 32,
}


def variable(secret: str) -> str:
    return f"MY_{secret.upper()}"


class Deployed:
    """A folder with kdcube.yaml, and what runs of it."""

    def __init__(self, engine: Engine, folder: Path, described: dict[str, Any]) -> None:
        self.engine, self.folder = engine, folder
        self.url = f"https://localhost:{described['edge']['https_port']}"
        self.disk = folder / "disk"
        """Where what PostgreSQL has its data on is mounted too."""
        self.project = f"kdcube-{described['tenant']}-{described['project']}"
        (folder / "kdcube.yaml").write_text(yaml.safe_dump(described))

    def kdcube(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (sys.executable, "-m", "kdcube.cli.main", *arguments),
            cwd=self.folder,
            env={**self.engine.variables, **{variable(name): value for name, value in SECRETS.items()}},
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"{done.stdout[-2_000:]}\n{done.stderr[-4_000:]}"
        return done

    @property
    def certificate(self) -> Path:
        return self.folder / "compose" / "secrets" / "tls_certificate"

    def client(self, **options: Any) -> Client:
        return Client(self.url, trust=ssl.create_default_context(cafile=self.certificate), **options)

    def containers(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.kdcube("compose", "status", "--json", check=False).stdout)
        return {each["container"].removeprefix(f"{self.project}-"): each for each in found["containers"]}

    def process(self, name: str) -> int:
        """Of a container, such as proc-1."""
        return int(self.engine.run("inspect", "--format", "{{.State.Pid}}", f"{self.project}-{name}"))

    async def ready(self) -> None:
        """There is no event of it: Docker asks a container from time to time, and so do we."""

        async def all_ready() -> bool:
            found = await asyncio.to_thread(self.containers)
            return bool(found) and all(each["ready"] for each in found.values())

        await eventually(all_ready, "all containers are ready", within_s=90)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with an_engine() as engine:
        stand_ins.build(engine, __version__)
        yield engine


@pytest.fixture(scope="module")
def deployed(
    engine: Engine, openid_provider: OpenIdProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """As an operator makes it, with a small disk for PostgreSQL."""
    folder = tmp_path_factory.mktemp("deployment")
    made = Deployed(engine, folder, described(openid_provider))
    (folder / "bundles" / "slow").mkdir(parents=True)
    (folder / "bundles" / "slow" / "bundle.py").write_text(BUNDLE)
    with a_disk(engine, f"{made.project}_postgres", made.disk):
        try:
            told = made.kdcube("compose", "up", "--timeout", "120")
            assert f"{made.url} is ready" in told.stdout
            yield made
        finally:
            made.kdcube("compose", "down", "--volumes", check=False)


def described(provider: OpenIdProvider) -> dict[str, Any]:
    plain, https = free_port(), free_port()
    url = f"https://localhost:{https}"
    client = provider.client(f"{url}/auth/callback", post_logout_redirect_uris=[f"{url}/"], public=True)
    return {
        "version": 1,
        "tenant": "engine",
        "project": f"compose{https}",
        "edge": {"http_port": plain, "https_port": https},
        "tls": "self-signed",
        "services": {
            "ingress": {"count": 2, "cpu": 0.5, "memory_mb": 512},
            "proc": {"cpu": 1, "memory_mb": 1024, "slots": 8, "stop_grace_s": 20},
            "proxylogin": {},
        },
        "data": {
            "valkey": {"kind": "container", "image": stand_ins.VALKEY, "memory_mb": 256},
            "postgres": {"kind": "container", "image": stand_ins.POSTGRES, "memory_mb": 512},
        },
        "bundles": {
            "source": {"kind": "mounted"},
            "registry": {"bundles": {"slow@1.0.0": {"path": "slow", "max_attempts": 5}}},
        },
        "auth": {
            "provider": "oidc",
            "issuer": provider.issuer,
            "client_ids": [client.client_id],
            "audiences": [provider.audience],
            "login": {"public_url": url, "scopes": "openid profile email groups"},
        },
        "secrets": {name: f"env:{variable(name)}" for name in SECRETS},
    }


@contextmanager
def a_disk(engine: Engine, volume: str, folder: Path) -> Iterator[None]:
    """A volume of a bounded size, which is a file system in a file. It is to be seen in ``folder`` as well."""
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    folder.mkdir()
    with ExitStack() as stack:
        run(engine, "mkfs.ext4", "-q", str(image))
        device = run(engine, "losetup", "--find", "--show", str(image))
        stack.callback(run, engine, "losetup", "--detach", device)
        run(engine, "mount", device, str(folder))
        stack.callback(run, engine, "umount", str(folder))
        options = ("--opt", "type=ext4", "--opt", f"device={device}")
        engine.run("volume", "create", "--driver", "local", *options, volume)
        stack.callback(engine.run, "volume", "rm", "--force", volume, check=False)
        yield


def run(engine: Engine, *command: str) -> str:
    done = subprocess.run(command, env=engine.variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def answered(client: Client, turn_id: str) -> str:
    """The whole answer, through whatever happens to connections."""
    reading = Reading()
    async for event in client.follow(turn_id):
        reading.add(event)
    assert reading.state == "completed", f"{turn_id}: {reading.state}"
    return reading.answer.strip()


def test_a_question_is_answered_through_the_proxy_with_tls(deployed: Deployed) -> None:
    told = deployed.kdcube("chat", "--url", deployed.url, "--ca", str(deployed.certificate), "good morning")
    assert told.stdout.strip() == "good morning"
    assert len(deployed.containers()) == len(SERVICES) + 3
    logs = deployed.kdcube("compose", "logs", "proc").stdout
    assert "turn" in logs


def test_no_secret_is_where_others_look(deployed: Deployed) -> None:
    engine = deployed.engine
    ids = engine.run("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={deployed.project}")
    inspected = engine.run("inspect", *ids.split())
    lines = subprocess.run(("ps", "-eo", "args"), capture_output=True, text=True, check=True).stdout
    logs = deployed.kdcube("compose", "logs").stdout
    for secret in SECRETS.values():
        assert secret not in inspected
        assert secret not in lines
        assert secret not in logs


def test_a_person_signs_in(deployed: Deployed, openid_provider: OpenIdProvider, tmp_path: Path) -> None:
    port = int(openid_provider.issuer.rpartition(":")[2])
    with ExitStack() as stack:
        for name in ("ingress-1", "ingress-2", "proc-1", "proxylogin-1"):
            stack.enter_context(passed_on(deployed.process(name), port))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(ARGS))
        stack.callback(browser.close)
        person = Person(browser, deployed.url, deployed.url, tmp_path)
        try:
            person.page.goto(f"{deployed.url}/c/123?tab=files")
            person.signs_in("bob")
            cookie = person.cookie("__Host-kdcube_login")
            assert cookie is not None and cookie["secure"] and cookie["httpOnly"]
            person.says("through the proxy")
            person.holds("log", "through the proxy [done]")
        finally:
            person.context.close()


@pytest.mark.anyio
@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_container_comes_back_and_no_turn_is_lost(deployed: Deployed, service: str) -> None:
    async with deployed.client() as client:
        await client.sign_in()
        turns = [(await client.send(f"{number} {TEXT}")).turn_id for number in range(3)]
        answers = [asyncio.create_task(answered(client, turn)) for turn in turns]
        os.kill(deployed.process(f"{service}-1"), signal.SIGKILL)
        turns.append((await client.send(f"3 {TEXT}")).turn_id)
        answers.append(asyncio.create_task(answered(client, turns[-1])))
        assert await asyncio.gather(*answers) == [f"{number} {TEXT}" for number in range(4)]
    await deployed.ready()
    assert deployed.containers()[f"{service}-1"]["restarts"] >= 1


@pytest.mark.anyio
async def test_a_disk_that_is_full_loses_nothing_that_was_accepted(deployed: Deployed) -> None:
    async with deployed.client() as client:
        await client.sign_in()
        turns = [(await client.send(f"{number} {TEXT}")).turn_id for number in range(3)]
        with filled(deployed):
            async with deployed.client(patience_s=3) as impatient:
                impatient.session_id = client.session_id
                with pytest.raises(Refused) as refused:
                    await impatient.send("is there room?")
            assert refused.value.status == 503
            status = deployed.kdcube("compose", "status", check=False)
            assert status.returncode == 1
            assert "postgres" in status.stdout
            assert "No space left on device" in deployed.kdcube("compose", "logs", "postgres").stdout
        answers = [asyncio.create_task(answered(client, turn)) for turn in turns]
        await deployed.ready()
        assert await asyncio.gather(*answers) == [f"{number} {TEXT}" for number in range(3)]
        assert await answered(client, (await client.send("there is")).turn_id) == "there is"


@contextmanager
def filled(deployed: Deployed) -> Iterator[None]:
    """The disk of PostgreSQL has no room any more, and PostgreSQL has found out."""
    filler = deployed.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 65_536)
        asked = ("exec", "--user", "postgres", f"{deployed.project}-postgres-1", "psql", "-U", "kdcube", "-d", "kdcube")
        for _ in range(20):  # each wants a new file for its log
            told = deployed.engine.run(
                *asked, "-c", "create table t(); drop table t; select pg_switch_wal()", check=False
            )
            if "FATAL" in told or "server closed" in told or "connection to server" in told:
                break
        yield
    finally:
        filler.unlink()

"""Secrets in AWS, against an emulator of it; what AWS says no with, against a server that says it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import httpx
import pytest
from tests.integration.secrets.conftest import ACCOUNT, REGION, Emulator

from kdcube.config.secrets import SecretSettings, Vault
from kdcube.local.ports import free_port
from kdcube.secrets.aws import Aws
from kdcube.secrets.secrets import Secrets
from kdcube.secrets.vault import SecretUnreadable

pytestmark = pytest.mark.anyio


class Scene:
    def __init__(self, settings: SecretSettings) -> None:
        self.now = 0.0
        self.aws = Aws(settings, **ACCOUNT)
        self.settings = settings
        vaults = {vault: self.aws.vault(vault) for vault in (Vault.SECRETS_MANAGER, Vault.PARAMETER_STORE)}
        self.secrets = Secrets(vaults, stale_s=1000, clock=lambda: self.now, patience_s=20, read_limit_s=30)
        self.get = self.secrets.get

    def later(self, seconds: float = 300) -> None:
        self.now += seconds


@contextmanager
def scene_at(endpoint: str, region: str | None = REGION) -> Generator[Scene]:
    scene = Scene(SecretSettings(region=region, endpoint=endpoint))
    try:
        yield scene
    finally:
        scene.aws.close()


@pytest.fixture
def scene(aws):
    with scene_at(aws.endpoint) as scene:
        yield scene


@pytest.fixture
def name():
    return f"acme/{uuid4().hex}"


async def test_a_secret_is_read_and_a_new_version_counts_after_a_while(aws: Emulator, scene, name):
    owner = aws.client("secretsmanager")
    arn = owner.create_secret(Name=name, SecretString="first")["ARN"]
    assert await scene.get(f"sm:{name}") == "first"
    owner.put_secret_value(SecretId=name, SecretString='{"key": "second"}')
    assert await scene.get(f"sm:{name}") == "first"
    scene.later()
    assert await scene.get(f"sm:{name}#key") == "second"
    assert await scene.get(f"sm:{arn}#key") == "second"


async def test_a_parameter_is_decrypted(aws: Emulator, scene, name):
    owner = aws.client("ssm")
    owner.put_parameter(Name=f"/{name}", Value="first", Type="SecureString")
    assert await scene.get(f"ssm:/{name}") == "first"
    owner.put_parameter(Name=f"/{name}", Value="second", Type="SecureString", Overwrite=True)
    scene.later()
    assert await scene.get(f"ssm:/{name}") == "second"


async def test_an_arn_says_its_region(aws: Emulator, scene, name):
    arn = aws.client("secretsmanager", "us-east-2").create_secret(Name=name, SecretString="over there")["ARN"]
    assert "us-east-2" in arn
    assert await scene.get(f"sm:{arn}") == "over there"


async def test_what_is_not_there_or_is_taken_away_is_no_outage(aws: Emulator, scene, name):
    for reference, told in ((f"sm:{name}", "no such secret in Secrets Manager"), (f"ssm:/{name}", "no such parameter")):
        with pytest.raises(SecretUnreadable, match=f"{reference} cannot be read: there is {told}") as error:
            await scene.get(reference)
        assert not error.value.away
    owner = aws.client("secretsmanager")
    owner.create_secret(Name=name, SecretString="hunter2")
    scene.later()
    assert await scene.get(f"sm:{name}") == "hunter2"
    owner.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    scene.later()
    with pytest.raises(SecretUnreadable, match="no such secret"):
        await scene.get(f"sm:{name}")
    owner.create_secret(Name=f"{name}-bytes", SecretBinary=b"hunter2")
    with pytest.raises(SecretUnreadable, match="bytes or nothing, not text"):
        await scene.get(f"sm:{name}-bytes")


async def test_while_aws_is_away_the_last_known_value_counts(aws: Emulator, name):
    aws.client("secretsmanager").create_secret(Name=name, SecretString="hunter2")
    with gateway(aws.endpoint) as between, scene_at(between.url) as scene:
        assert await scene.get(f"sm:{name}") == "hunter2"
        between.away = True
        scene.later()
        assert await scene.get(f"sm:{name}") == "hunter2"
        (told,) = scene.secrets.unreadable()
        assert told["last_known_in_use"] and "cannot be asked" in told["reason"] and "hunter2" not in str(told)
        scene.later(1000)
        with pytest.raises(SecretUnreadable, match="Secrets Manager cannot be asked"):
            await scene.get(f"sm:{name}")
        between.away = False
        scene.later()
        assert await scene.get(f"sm:{name}") == "hunter2"


@pytest.mark.parametrize(
    ("code", "told", "away"),
    [
        ("AccessDeniedException", "role may not read it in Secrets Manager", False),
        ("InvalidRequestException", "marked for deletion", False),
        ("DecryptionFailure", "cannot be decrypted", False),
        ("ThrottlingException", r"cannot be asked \(ThrottlingException\)", True),
        ("ExpiredTokenException", r"cannot be asked \(ExpiredTokenException\)", True),
        ("InternalServiceError", r"cannot be asked \(InternalServiceError\)", True),
    ],
)
async def test_what_aws_says_no_with(code, told, away):
    with gateway(None) as saying, scene_at(saying.url) as scene:
        saying.code = code
        with pytest.raises(SecretUnreadable, match=told) as error:
            await scene.get("sm:acme/x")
        assert error.value.away is away
        assert "words of AWS" not in str(error.value)


async def test_without_a_region_or_with_nobody_there_it_says_so(monkeypatch, tmp_path):
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with scene_at(f"http://127.0.0.1:{free_port()}", region=None) as scene:
        with pytest.raises(SecretUnreadable, match="NoRegionError") as error:
            await scene.get("sm:x")
        assert error.value.away
    with scene_at(f"http://127.0.0.1:{free_port()}") as scene:
        with pytest.raises(SecretUnreadable, match="EndpointConnectionError") as error:
            await scene.get("ssm:/x")
        assert error.value.away


async def test_the_loop_goes_on_while_aws_is_silent():
    with gateway(None) as silent, scene_at(silent.url) as scene:
        silent.hang.clear()
        waiting = asyncio.create_task(scene.get("sm:x"))
        while not silent.came.is_set():
            await asyncio.sleep(0.01)  # this is what would not come back
        assert not waiting.done()
        silent.code = "ResourceNotFoundException"
        silent.hang.set()
        with pytest.raises(SecretUnreadable):
            await waiting


def test_boto3_is_imported_with_the_first_reference_that_needs_it():
    program = """
import asyncio, sys
import kdcube.proc.main, kdcube.ingress.app
from kdcube.config.secrets import SecretSettings
from kdcube.secrets.opening import open_secrets
from kdcube.secrets.vault import SecretUnreadable

async def main():
    async with open_secrets(SecretSettings()) as secrets:
        try:
            await secrets.get("env:KEY")
        except SecretUnreadable as error:
            print(error)

asyncio.run(main())
print(sorted({"boto3", "botocore", "s3transfer"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-2:] == ["the secret env:KEY cannot be read: the variable is not set", "[]"], (
        done.stderr
    )


class Gateway:
    """Stands before AWS: passes on, says ``code``, is ``away`` (500), or hangs while ``hang`` is not set."""

    def __init__(self) -> None:
        self.url = ""
        self.away = False
        self.code = ""
        self.hang = threading.Event()
        self.hang.set()
        self.came = threading.Event()


@contextmanager
def gateway(target: str | None) -> Generator[Gateway]:
    stands = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stands.came.set()
            stands.hang.wait()
            if stands.away or target is None:
                said = {"__type": stands.code or "InternalServiceError", "message": "words of AWS"}
                status, content = (500 if stands.away else 400), json.dumps(said).encode()
            else:
                sent = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
                answer = httpx.post(target, content=body, headers=sent)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stands.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield stands
        finally:
            stands.hang.set()
            server.shutdown()
            thread.join()

"""Secrets on their way to a bundle's turn: from files and from AWS, rotated, and gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Stack
from tests.e2e.test_running import answer_of, send, stream
from tests.integration.secrets.conftest import ACCOUNT, REGION, Emulator, emulator

BUNDLE = """
import hashlib
from kdcube.sdk import Bundle

bundle = Bundle("keeper@1.0.0")

@bundle.on_message
async def answer(turn):
    value = turn.secret(turn.text)
    await turn.delta(hashlib.sha256(value.encode()).hexdigest())
"""


def hashed(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass
class Installation:
    stack: Stack
    aws: Emulator
    folder: Path
    asked: int = 0

    def send(self, secret: str) -> str:
        self.asked += 1
        send(self.stack, self.stack.ingress[0], f"turn-{self.asked}", secret)
        return f"turn-{self.asked}"

    def told(self, secret: str) -> str:
        return answer_of(self.stack.ingress[0], self.send(secret))

    def failure(self, secret: str) -> dict:
        with stream(self.stack.ingress[0], self.send(secret)) as events:
            return list(events)[-1]["data"]["error"]


@pytest.fixture(scope="module")
def installation(tmp_path_factory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "keeper").mkdir()
    (folder / "keeper" / "bundle.py").write_text(BUNDLE)
    granted = {
        **{"FILE": "file:key", "AWS": "sm:acme/models#key", "PARAMETER": "ssm:/acme/key", "VARIABLE": "env:MINE"},
        **{"ABSENT": "sm:acme/absent", "NO_FILE": "file:absent"},
    }
    registry = {"bundles": {"keeper@1.0.0": {"path": str(folder / "keeper"), "secrets": granted}}}
    with emulator(folder) as aws:
        aws.client("secretsmanager").create_secret(Name="acme/models", SecretString='{"key": "hunter2-sm"}')
        aws.client("ssm").put_parameter(Name="/acme/key", Value="hunter2-ssm", Type="SecureString")
        variables = {
            **{"AGENTIC_BUNDLES_JSON": json.dumps(registry), "MINE": "hunter2-env", "KDCUBE_SECRETS_MAX_AGE_SEC": "1"},
            **{"AWS_REGION": REGION, "AWS_ENDPOINT_URL": aws.endpoint},
            **{name.upper(): value for name, value in ACCOUNT.items()},
        }
        stack = Stack(folder, variables)
        (stack.home / "secrets").mkdir(mode=0o700, parents=True)
        (stack.home / "secrets" / "key").write_text("hunter2-file\n")
        stack.up(["--ingress", "1"])
        try:
            yield Installation(stack, aws, folder)
        finally:
            stack.down()


def test_each_vault_gives_its_own_and_a_rotated_one_counts_without_a_restart(installation):
    told = installation.told
    values = {"FILE": "hunter2-file", "AWS": "hunter2-sm", "PARAMETER": "hunter2-ssm", "VARIABLE": "hunter2-env"}
    assert {name: told(name) for name in values} == {name: hashed(value) for name, value in values.items()}
    (installation.stack.home / "secrets" / "key").write_text("rotated-file")
    owner = installation.aws.client("secretsmanager")
    owner.put_secret_value(SecretId="acme/models", SecretString='{"key": "rotated"}')
    while told("FILE") != hashed("rotated-file"):
        pass
    while told("AWS") != hashed("rotated"):
        pass


def test_what_cannot_be_read_fails_the_turn_that_asks_and_names_the_secret(installation):
    for name in ("ABSENT", "NO_FILE"):
        error = installation.failure(name)
        assert error == {
            "code": "secret_unavailable",
            "message": f"The assistant cannot work now: its secret {name} cannot be read.",
        }
    assert installation.failure("UNGRANTED")["code"] == "bundle_error"
    (proc,) = (service.url for service in installation.stack.state.services if service.name == "proc")
    told = {item["secret"]: item["reason"] for item in httpx.get(f"{proc}/health").json()["unreadable_secrets"]}
    assert told == {
        "sm:acme/absent": "there is no such secret in Secrets Manager",
        "file:absent": "KDCUBE_SECRETS_DIR has no such file",
    }


def test_no_value_is_written_anywhere(installation):
    logs = "".join(log.read_text(errors="replace") for log in installation.stack.home.glob("logs/*.log"))
    assert "secret_not_read" in logs and "hunter2" not in logs and "of-the-tests" not in logs
    for state in (installation.stack.home / "state.json", *installation.stack.home.glob("run/**/*.json")):
        assert "hunter2" not in state.read_text()

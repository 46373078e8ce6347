"""AWS as tests have it: an emulator on loopback, and clients of its owner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection
from typing import Any

import boto3
import pytest

from kdcube.local.ports import free_port

REGION = "eu-central-1"
ACCOUNT = {"aws_access_key_id": "111122223333", "aws_secret_access_key": "of-the-tests"}
_START_LIMIT_S = 60.0


class Emulator:
    """``client``: of a service, as somebody who may do everything."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def client(self, service: str, region: str = REGION) -> Any:
        return boto3.Session(**ACCOUNT).client(service, region_name=region, endpoint_url=self.endpoint)


@contextmanager
def emulator(folder: Path) -> Iterator[Emulator]:
    port = free_port()
    env = {
        **{"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)},
        **{"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "LOG_LEVEL": "ERROR"},
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "ministack"], env=env, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _START_LIMIT_S
            while True:
                try:
                    create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
            yield Emulator(port)
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="session")
def aws(tmp_path_factory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("aws")) as running:
        yield running

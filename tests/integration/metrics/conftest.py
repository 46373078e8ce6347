"""Where signals go: an emulator of AWS, and a real push gateway."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from socket import create_connection

import pytest
from tests.integration.secrets.conftest import Emulator, emulator

from kdcube.local.ports import free_port

_START_LIMIT_S = 60.0


@pytest.fixture(scope="session")
def aws(tmp_path_factory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(scope="session")
def push_gateway(tmp_path_factory) -> Iterator[str]:
    """Debian's; its URL."""
    folder, port = tmp_path_factory.mktemp("push"), free_port()
    command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + _START_LIMIT_S
            while True:
                try:
                    create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()

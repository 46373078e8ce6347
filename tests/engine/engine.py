"""A Docker Engine for tests: the one that DOCKER_HOST names, else one that is started here and ended again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Engine:
    """``variables`` lead every client to it."""

    variables: dict[str, str]

    @property
    def client(self) -> str:
        """Debian's, where there is one: a newer client may not build without what it does not bring."""
        return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker") or "docker"

    def run(self, *arguments: str, check: bool = True, given: str | None = None) -> str:
        """What it prints on both outputs."""
        done = subprocess.run(
            [self.client, *arguments],
            env=self.variables,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout[-2_000:]}"
        return done.stdout.strip()


@contextmanager
def an_engine() -> Iterator[Engine]:
    search = f"/usr/bin:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    variables = {**os.environ, "PATH": search, "DOCKER_BUILDKIT": "0"}
    given = Engine(variables)
    if "DOCKER_HOST" in os.environ or Path("/var/run/docker.sock").is_socket():
        given.run("version")
        yield given
        return
    daemon = shutil.which("dockerd", path=search)
    if daemon is None:
        pytest.fail("there is no Docker Engine: apt-get install docker.io iptables")
    folder = Path(tempfile.mkdtemp(prefix="kdcube-engine-", dir="/var/tmp"))
    engine = Engine({**variables, "DOCKER_HOST": f"unix://{folder}/docker.sock"})
    roots = ("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            # Without docker0, which another engine of this machine may have.
            [daemon, *roots, "--host", f"unix://{folder}/docker.sock", "--bridge", "none"],
            env=variables,
            stdout=log,
            stderr=log,
        )
        try:
            _wait(engine, process, folder / "log")
            yield engine
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def _wait(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while "Server:" not in engine.run("version", check=False):
        # No event tells when it listens.
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-2_000:]
        time.sleep(0.1)

"""Commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcube.local.ports import free_port
from kdcube.local.state import read_state

KDCube = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kdcube(home: Path, tmp_path: Path) -> KDCube:
    """``kdcube("up", KDCUBE_PORT="9000")`` with a data folder of the test's own; nothing may run there afterwards."""
    port = str(free_port(1, 10, 30, 31, 40, 80, 90, 91))

    def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KDCUBE_HOME": str(home), "KDCUBE_PORT": port}
        done = subprocess.run(
            [sys.executable, "-m", "kdcube.cli.main", *args],
            env={**env, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert read_state(home / "state.json") is None, "something was left running"
        return done

    return run

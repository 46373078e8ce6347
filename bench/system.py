"""A whole system of the bench's own, as ``kdcube up`` starts it, in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import CpuMeter, tree

from kdcube.local.ports import free_port
from kdcube.local.state import read_state

KDCUBE = ("-m", "kdcube.cli.main")
BUNDLE = Path(__file__).parent / "bundle"
SLOTS = 64
GATEWAY = {
    "tenant": "bench",
    "project": "main",
    "rate_limits": {"anonymous": {"hourly": -1, "burst": -1}},
    "backpressure": {"queue_depth_multiplier": 1000},
    "limits": {"max_queue_size": 1_000_000, "max_live_turns_per_user": 1_000_000},
}
"""The default configuration, but for what would refuse a load test."""


@dataclass(frozen=True, slots=True)
class System:
    """A running system."""

    home: Path
    env: dict[str, str]

    @property
    def ingress(self) -> list[tuple[str, int]]:
        """Host and port of each ingress process."""
        port = int(self.env["KDCUBE_PORT"])
        return [("127.0.0.1", port), ("127.0.0.1", port + 1)]

    @property
    def proc_internal(self) -> str:
        """Where proc says what it counted."""
        return f"http://127.0.0.1:{int(self.env['KDCUBE_PORT']) + 40}"

    @property
    def valkey_port(self) -> int:
        return int(self.env["KDCUBE_PORT"]) + 90

    def meter(self) -> CpuMeter:
        """By component; a process that is started later does not count."""
        state = read_state(self.home / "state.json")
        assert state is not None
        pids: dict[str, list[int]] = {}
        for service in state.services:
            own, *children = tree(service.process.pid)
            if service.name == "proc":
                pids.setdefault("proc", []).append(own)
                pids.setdefault("bundle hosts", []).extend(children)
            else:
                pids.setdefault(service.name, []).extend([own, *children])
        return CpuMeter(pids)


def environment(folder: Path, gateway: Mapping[str, Any] = GATEWAY) -> dict[str, str]:
    """For ``kdcube`` with a home in ``folder``, on ports that are free."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "KDCUBE_HOME": str(folder / "home"),
        "KDCUBE_PORT": str(free_port(1, 10, 30, 31, 40, 80, 90, 91)),
        "GATEWAY_CONFIG_JSON": json.dumps(gateway),
    }


def kdcube(env: dict[str, str], *args: str, python: str = sys.executable) -> None:
    """Raises CalledProcessError, with what the command said on its own standard error."""
    subprocess.run([python, *KDCUBE, *args], env=env, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running_system(
    bundles: Callable[[Path], dict[str, Any]] | None = None,
    *,
    slots: int = SLOTS,
    gateway: Mapping[str, Any] = GATEWAY,
    tokens: Mapping[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Generator[System]:
    """Two ingress processes, one proc with so many slots, the bench bundle as the default one.

    ``bundles`` gives the registry of others, for a home that will be there. ``tokens``: who may sign in, by token.
    ``settings``: variables for all of it. ``python`` is what runs all of it.
    """
    with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
        env = {**environment(Path(folder), gateway), **(settings or {})}
        auth: list[str] = []
        if tokens is not None:
            path = Path(folder) / "tokens.json"
            path.write_text(json.dumps(tokens))
            auth = ["--auth", str(path)]
        if bundles is not None:
            env["AGENTIC_BUNDLES_JSON"] = json.dumps(bundles(Path(env["KDCUBE_HOME"])))
        kdcube(env, "up", "--detach", "--slots", str(slots), "--bundle", str(BUNDLE), *auth, python=python)
        try:
            yield System(Path(env["KDCUBE_HOME"]), env)
        finally:
            kdcube(env, "down")

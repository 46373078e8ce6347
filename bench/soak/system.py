"""The system that is soaked, as ``kdcube up`` starts it: two ingress processes, two procs, the soak's bundles."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from bench.cpu import tree
from bench.soak.wire import Address, connect, request
from bench.system import environment, kdcube

from kdcube.local.postgres import running_dsn
from kdcube.local.state import read_state

BUNDLE, REPEATABLE = "soak@1.0.0", "soak-repeatable@1.0.0"
INGRESS = PROCS = 2
SLOTS = 32
"""Of each proc."""
HOSTS = PROCS * 2 * SLOTS // 8
"""At most, of the two bundles: each takes 8 turns. One that has nothing to do for 5 minutes ends."""
_BUNDLE_FOLDER = Path(__file__).parent / "bundle"
_HOST = "kdcube.sdk.host"
_KEEPER = "keeper.py"
"""Of a host: it names the program that it starts."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class System:
    folder: Path
    home: Path
    port: int

    @property
    def ingress(self) -> list[Address]:
        return [("127.0.0.1", self.port + number) for number in range(INGRESS)]

    @property
    def valkey_url(self) -> str:
        return f"redis://127.0.0.1:{self.port + 90}/0"

    @property
    def dsn(self) -> str | None:
        """None while PostgreSQL does not run."""
        return running_dsn(self.home / "postgres")

    def pids(self) -> dict[str, int]:
        """Of what runs now, by instance: valkey, postgres, ingress-0, ..., proc-1."""
        state = read_state(self.home / "state.json")
        return {} if state is None else {service.instance: service.process.pid for service in state.services}

    def supervisor(self) -> int | None:
        state = read_state(self.home / "state.json")
        return None if state is None else state.supervisor.pid

    def hosts(self) -> list[int]:
        """The bundle hosts of all procs."""
        pids = self.pids()
        children = [pid for name, proc in pids.items() if name.startswith("proc") for pid in tree(proc)[1:]]
        commands = {pid: _command(pid) for pid in children}
        return [pid for pid, command in commands.items() if _HOST in command and _KEEPER not in command]

    async def healed(self, limit_s: float) -> bool:
        """Wait until everything runs and is ready. False when that takes longer than ``limit_s``."""
        replicas = (*(f"ingress-{n}" for n in range(INGRESS)), *(f"proc-{n}" for n in range(PROCS)))
        wanted = {"valkey", "postgres", "metrics-0", *replicas}
        probes = [*self.ingress, *(("127.0.0.1", self.port + 10 + number) for number in range(PROCS))]
        try:
            async with asyncio.timeout(limit_s):
                while self.pids().keys() != wanted or not all([await _ready(address) for address in probes]):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True


@contextmanager
def running_system() -> Iterator[System]:
    """In a temporary folder, on free ports; limits that would refuse a load test are off."""
    with tempfile.TemporaryDirectory(prefix="kdcube-soak-") as folder:
        env = environment(Path(folder))
        bundles = {
            BUNDLE: {"path": str(_BUNDLE_FOLDER)},
            REPEATABLE: {"path": str(_BUNDLE_FOLDER), "module": "bundle:repeatable"},
        }
        env["AGENTIC_BUNDLES_JSON"] = json.dumps({"default_bundle_id": BUNDLE, "bundles": bundles})
        kdcube(env, "up", "--detach", "--ingress", str(INGRESS), "--proc", str(PROCS), "--slots", str(SLOTS))
        try:
            yield System(Path(folder), Path(env["KDCUBE_HOME"]), int(env["KDCUBE_PORT"]))
        finally:
            kdcube(env, "down")


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


async def _ready(address: Address) -> bool:
    try:
        connection = await connect(address)
        try:
            return (await connection.ask(request("GET", "/ready", None))).status_code == 200
        finally:
            connection.abort()
    except (ConnectionError, TimeoutError):
        return False

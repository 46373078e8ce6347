"""Stand-ins for services: small programs that say when they are ready, and in which order they ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcube.local.home import Home
from kdcube.local.process import Program
from kdcube.local.service import ServiceSpec

_FAKE = """
import os, signal, sys
name, folder, behaviour = sys.argv[1:]
if behaviour == "fails":
    sys.exit(f"{name} cannot read its settings")
def end(*_):
    if behaviour != "stubborn":
        with open(f"{folder}/ended", "a") as order:
            print(name, file=order)
        sys.exit(0)
signal.signal(signal.SIGTERM, end)
if behaviour == "parent":
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    with open(f"{folder}/child", "w") as file:
        file.write(str(child))
print(f"{name} is ready", flush=True)
with open(f"{folder}/{name}.new", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
while True:
    signal.pause()
"""

FakeService = Callable[..., ServiceSpec]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    with home.locked():
        pass
    return home


@pytest.fixture
def fake(tmp_path: Path) -> FakeService:
    """Makes a spec: ``fake("proc-0", behaviour="stubborn")``. What ended by itself stands in ``tmp_path/ended``."""

    def make(instance: str, behaviour: str = "", grace_s: float = 20) -> ServiceSpec:
        async def missing(pid: int) -> str | None:
            ready = tmp_path / instance
            return None if ready.exists() and ready.read_text() == str(pid) else "it has not said that it is ready"

        program = Program((sys.executable, "-S", "-c", _FAKE, instance, str(tmp_path), behaviour))
        return ServiceSpec(instance.split("-")[0], instance, "http://127.0.0.1:1", program, missing, grace_s=grace_s)

    return make

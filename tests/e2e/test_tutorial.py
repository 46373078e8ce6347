"""The tutorial, as somebody follows it: every command and every file of it, in order, in a copy of this project.

Of the fenced blocks, ``sh`` is run, ``python title="FILE"`` is saved, ``text`` is what the command above it prints, and
``text terminal`` what `kdcube up` says meanwhile; each of their lines must come, in that order.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.test_bundles import Terminal

from kdcube.local.ports import free_port
from kdcube.local.state import read_state

ROOT = Path(__file__).parents[2]
COPIED = ("Makefile", "pyproject.toml", "requirements", "README.md", "docs")
SET_UP = (".venv", ".tools")
"""What `make up` would install from the network, which `make test` has done already."""
BLOCK = re.compile(r"^```([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATIENCE_S = 90


class Newcomer:
    """Somebody with a clone, a home, and two terminals."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "kdcube"
        self.clone.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, self.clone / name)
        for file in (self.clone / "pyproject.toml", *(self.clone / "requirements").iterdir()):
            os.utime(file, (0, 0))
        for name in SET_UP:
            (self.clone / name).symlink_to(ROOT / name)
        self.port = free_port(1, 10, 30, 31, 40, 90, 91)
        self.first: Terminal | None = None
        self.printed = ""
        self.exported = folder / "exported"
        self.exported.touch()
        self.env = {"PATH": os.defpath, "HOME": str(folder), "KDCUBE_PORT": str(self.port)}

    def run(self, commands: str) -> None:
        commands = commands.replace(":8010", f":{self.port}")
        if " up " in commands and "--detach" not in commands:
            self._start(commands)
            return
        script = f". {self.exported}\n{commands}\nexport -p > {self.exported}\n"
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.clone, env=self.env, capture_output=True, text=True, timeout=_PATIENCE_S
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{commands}{done.stdout}{done.stderr}"

    def _start(self, commands: str) -> None:
        process = subprocess.Popen(
            ["bash", "-euc", f". {self.exported}\nexec {commands}"],
            cwd=self.clone,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.first = Terminal(process)
        self.first.until("/turns/turn_1/stream")

    def close(self) -> None:
        if self.first is not None:
            os.killpg(self.first.process.pid, signal.SIGINT)
            with self.first.process:
                assert self.first.process.wait(timeout=_PATIENCE_S) == 0
        elif read_state(self.clone / ".kdcube" / "state.json"):
            self.run(".venv/bin/kdcube down")


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    try:
        yield newcomer
    finally:
        newcomer.close()


@pytest.mark.timeout(300)
def test_every_command_of_the_tutorial(newcomer):
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text())
    assert {kind.split()[0] for kind, _ in blocks} == {"sh", "text", "python"}
    for kind, content in blocks:
        if kind == "sh":
            newcomer.run(content)
        elif kind == "text":
            at = 0
            for line in content.replace(":8010", f":{newcomer.port}").splitlines():
                assert line in newcomer.printed[at:], f"{line!r} is not in what was printed:\n{newcomer.printed}"
                at = newcomer.printed.index(line, at) + len(line)
        elif kind == "text terminal":
            assert newcomer.first is not None
            for line in content.splitlines():
                newcomer.first.until(line)
        else:
            file = re.fullmatch(r'python title="([^"]+)"', kind)
            assert file, kind
            (newcomer.clone / file[1]).write_text(content)

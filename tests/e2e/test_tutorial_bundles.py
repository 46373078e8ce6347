"""The tutorial of bundles from git, as somebody follows it: as test_tutorial.py does, with two more terminals.

``sh beside`` is started in a terminal of its own, and each line of ``text beside`` must come there, in that order.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.test_bundles import Terminal
from tests.e2e.test_tutorial import BLOCK, ROOT, Newcomer

from kdcube.local.ports import free_port


class Releaser(Newcomer):
    """Somebody who has a server of git as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.git_port = free_port()
        self.beside: list[Terminal] = []

    def at_home(self, text: str) -> str:
        return text.replace(":8010", f":{self.port}").replace("8099", str(self.git_port))

    def start_beside(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-euc", f". {self.exported}\nexec {command}"],
            cwd=self.clone,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.beside.append(Terminal(process))

    def close(self) -> None:
        for terminal in self.beside:
            with terminal.process:
                os.killpg(terminal.process.pid, signal.SIGKILL)
        super().close()


@pytest.fixture
def releaser(tmp_path: Path) -> Iterator[Releaser]:
    releaser = Releaser(tmp_path)
    try:
        yield releaser
    finally:
        releaser.close()


@pytest.mark.timeout(240)
def test_every_command_of_the_tutorial_of_bundles(releaser):
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial-bundles.md").read_text())
    for kind, content in blocks:
        content = releaser.at_home(content)
        if kind == "sh":
            releaser.run(content)
        elif kind == "sh beside":
            releaser.start_beside(content)
        elif kind == "text":
            at = 0
            for line in content.splitlines():
                assert line in releaser.printed[at:], f"{line!r} is not in what was printed:\n{releaser.printed}"
                at = releaser.printed.index(line, at) + len(line)
        elif kind == "text beside":
            for line in content.splitlines():
                releaser.beside[-1].until(line)
        else:
            file = re.fullmatch(r'python title="([^"]+)"', kind)
            assert file, kind
            (releaser.clone / file[1]).write_text(content)

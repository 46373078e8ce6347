"""A bundle while somebody writes it: reloaded on change, heard on the terminal."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Stack
from tests.e2e.test_running import ALICE, answer_of, stream

BUNDLE = """
import asyncio, logging
from pathlib import Path
from kdcube.sdk import Bundle

bundle = Bundle("mine@1.0.0")

@bundle.on_message
async def answer(turn):
    print("VERSION prints", turn.text)
    logging.getLogger("mine").warning("VERSION logs %s", turn.text)
    await turn.delta("VERSION ")
    if turn.text == "hold":
        await asyncio.to_thread(Path("GATE").read_text)  # until somebody opens its other end
        await turn.delta("VERSION")
    if turn.text == "fail":
        raise RuntimeError("VERSION fails")
"""
_PATIENCE_S = 60.0


class Terminal:
    """The lines of `kdcube up`, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._queue.put(line.rstrip("\n"))

    def until(self, text: str) -> str:
        """Waits for a line that has this text."""
        while True:
            try:
                line = self._queue.get(timeout=_PATIENCE_S)
            except queue.Empty:
                pytest.fail(f"it does not say {text!r}, but:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if text in line:
                return line


class Author:
    """Writes the bundle, talks to it, and sees the terminal."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.file = folder / "bundle.py"
        self.gate = folder.parent / "gate"
        os.mkfifo(self.gate)
        folder.mkdir()
        self.terminal: Terminal

    def write(self, version: str, code: str = BUNDLE) -> None:
        self.file.write_text(code.replace("VERSION", version).replace("GATE", str(self.gate)))

    def let_go(self) -> None:
        """Whoever still waits at the gate, if anybody does."""
        with suppress(OSError):
            os.close(os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK))

    def ask(self, turn_id: str, text: str = "") -> str:
        self.send(turn_id, text or turn_id)
        return answer_of(self.stack.ingress[0], turn_id)

    def send(self, turn_id: str, text: str) -> None:
        message = {"message": {"text": text, "turn_id": turn_id}}
        sent = httpx.post(f"{self.stack.ingress[0]}/chatbot/api/sse/chat", json=message, headers=ALICE)
        assert sent.status_code == 202, sent.text


@pytest.fixture
def author(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Author]:
    """`kdcube up --bundle ... --watch` at a terminal, with the version ``one`` of the bundle."""
    with writing(tmp_path_factory.mktemp("author"), "--watch") as author:
        yield author


@contextmanager
def writing(place: Path, *args: str, **variables: str) -> Iterator[Author]:
    author = Author(Stack(place, variables), place / "mine")
    author.write("one")
    up = ("up", "--ingress", "1", "--bundle", str(author.file.parent), *args)
    with author.stack.in_foreground(*up) as process:
        author.terminal = Terminal(process)
        author.terminal.until("/turns/turn_1/stream")
        try:
            yield author
        finally:
            author.let_go()
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=_PATIENCE_S) == 0


def test_what_is_saved_is_what_the_next_turn_runs(author):
    said = author.terminal.until
    assert author.ask("first") == "one "
    assert said("one prints first") == "mine@1.0.0 | one prints first"
    assert said("one logs first") == "mine@1.0.0 | one logs first"

    # A running turn finishes on the version that it began on.
    author.send("held", "hold")
    with stream(author.stack.ingress[0], "held") as events:
        next(event for event in events if event["type"] == "chat.delta")
        author.write("two")
        said("reloaded in ")
        assert author.ask("second") == "two "
        author.gate.write_text("")
        rest = list(events)
    assert [event["delta"]["text"] for event in rest if event["type"] == "chat.delta"] == ["one"]

    # A file that Python cannot read changes nothing but the terminal.
    author.write("broken", BUNDLE + "def nothing(:\n")
    line = said("does not load, the version before goes on")
    assert line.startswith("mine@1.0.0 | ")
    assert f"SyntaxError: invalid syntax ({author.file}, line 18)" in line
    assert author.ask("third") == "two "
    author.write("two")
    said("is again what runs")
    author.write("three")
    said("reloaded in ")
    assert author.ask("fourth") == "three "

    # What fails says where, to whoever wrote it.
    assert author.ask("failing", "fail") == "three "
    said("Traceback (most recent call last)")
    assert said(f'File "{author.file}", line ').endswith("in answer")
    assert said("RuntimeError: ") == "mine@1.0.0 | RuntimeError: three fails"
    assert "three prints fail" in author.stack.kdcube("logs", "proc").stdout

    found = json.loads(author.stack.kdcube("status", "--json").stdout)
    mine = next(bundle for bundle in found["bundles"] if bundle["id"] == "mine@1.0.0")
    assert len(mine["host_pids"]) == 1


DEBUGGED = """
from kdcube.sdk import Bundle

bundle = Bundle("mine@1.0.0")

@bundle.on_message
async def answer(turn):
    secret = "not seen"
    breakpoint()
    await turn.delta(secret)
"""


def test_a_breakpoint_waits_for_a_debugger(tmp_path_factory):
    with writing(tmp_path_factory.mktemp("debugged"), "--watch", KDCUBE_DEBUG_BUNDLES="1") as author:
        author.write("", DEBUGGED)
        author.terminal.until("reloaded in ")
        author.send("looked-at", "hello")
        line = author.terminal.until("to get there: ")
        assert f"breakpoint at {author.file}, line 9; to get there: " in line
        command = line.partition("to get there: ")[2].split()
        said = subprocess.run(
            command, input="p turn.text\nsecret = 'seen'\nc\n", capture_output=True, text=True, timeout=_PATIENCE_S
        )
        assert said.returncode == 0, said.stderr
        assert "'hello'" in said.stdout
        assert answer_of(author.stack.ingress[0], "looked-at") == "seen"

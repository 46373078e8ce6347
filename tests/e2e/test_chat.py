"""``kdcube chat`` on the whole system: at a terminal, in pipes, and through a killed ingress."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Stack
from tests.e2e.pseudo_terminal import CTRL_C, CTRL_D, AtTerminal, at_terminal

from kdcube.local.ports import free_port

pytestmark = pytest.mark.anyio

TALK = Path(__file__).parent / "talk"
_PATIENCE_S = 60.0


class Done:
    """What a command without a terminal has done."""

    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.err = err.decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Chat:
    """``kdcube chat`` for one user of an installation."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.state = folder / "state"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_STATE_HOME": str(self.state),
            "KDCUBE_HOME": str(stack.home),
            "KDCUBE_PORT": str(stack.port),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }

    def terminal(self, *args: str, columns: int = 100, **env: str) -> AbstractAsyncContextManager[AtTerminal]:
        return at_terminal(self.command(*args), self.env | env, columns=columns)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AtTerminal]:
        """At a terminal, ready for what is typed."""
        async with self.terminal() as terminal:
            await terminal.shows("/help")
            yield terminal

    @asynccontextmanager
    async def running(self, *args: str, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Without a terminal; it is killed if it is still there at the end."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.command(*args), env=self.env | env, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def run(self, *args: str, said: str = "", **env: str) -> Done:
        """Without a terminal; ``said`` is piped in."""
        async with self.running(*args, **env) as process:
            out, err = await process.communicate(said.encode())
        return Done(process.returncode, out, err)

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "kdcube.cli.main", "chat", *args]


@pytest.fixture(scope="session")
def talk_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("talk"), {})
    stack.up(["--bundle", str(TALK)])
    yield stack
    stack.down()


@pytest.fixture
def chat(talk_stack: Stack, tmp_path: Path) -> Chat:
    talk_stack.wait_back()  # a test before may have killed something
    return Chat(talk_stack, tmp_path)


def last(line: str) -> Callable[[str], bool]:
    """The terminal shows this line last, so the turn has ended: while it runs there is a wheel below."""
    return lambda text: content(text)[-1:] == [line]


def quoted(word: str) -> str:
    """For a shell, in which the pipe stays one."""
    return word if word == "|" else shlex.quote(word)


def content(text: str) -> list[str]:
    """The lines that hold something, without the input line."""
    return [line for line in text.splitlines() if line.strip() and line != "›"]


# --- one question


async def test_one_question_in_a_pipe_is_answered_as_plain_text(chat):
    done = await chat.run("Some **bold** words\u2028and a \U0001f600")
    assert (done.code, done.out, done.err) == (0, "Some **bold** words\u2028and a \U0001f600\n", "")


async def test_a_question_may_be_piped_in(chat):
    done = await chat.run(said="one\ntwo\n\nthree\n")
    assert (done.code, done.out) == (0, "one\ntwo\n\nthree\n")


async def test_nothing_asked_is_bad_input(chat):
    done = await chat.run(said=" \n")
    assert (done.code, done.out, done.err) == (2, "", "kdcube: the question is empty\n")


async def test_sources_follow_a_plain_answer(chat):
    done = await chat.run("Look: {step:Searching} {done:Searching} {cite:docs/start.md} here")
    assert done.code == 0
    assert done.out == 'Look: here\n\nSources:\n[1] docs/start.md › Its heading\n    "What it says there."\n'
    assert done.err == "Searching\n"


async def test_events_are_printed_one_a_line(chat):
    done = await chat.run("--json", "one two {cite:a.md} three")
    events = done.events
    assert done.code == 0
    assert [event["event"] for event in events] == [
        *("accepted", "chat_start", "chat_delta", "chat_delta", "chat_service", "chat_delta", "chat_complete")
    ]
    assert all(event.get("id") for event in events[1:])
    assert events[4]["data"]["type"] == "turn.citations"
    assert events[-1]["data"]["data"]["answer"] == "one two three"


async def test_one_question_at_a_terminal_is_rendered(chat):
    async with chat.terminal("# A title\n\nSome **bold** words {cite:docs/start.md}") as terminal:
        assert await terminal.ended() == 0
        assert content(terminal.text) == [
            *("A title", "Some bold words", "Sources", " [1] docs/start.md › Its heading"),
            "     “What it says there.”",
        ]
        assert "\x1b[1m" in terminal.written


async def test_no_color_is_respected(chat):
    async with chat.terminal("Some **bold** words", NO_COLOR="1") as terminal:
        assert await terminal.ended() == 0
        assert content(terminal.text) == ["Some **bold** words"]
        assert "\x1b[1m" not in terminal.written


async def test_a_terminal_that_cannot_move_its_cursor_gets_plain_text(chat):
    async with chat.terminal("Some **bold** words", TERM="dumb") as terminal:
        assert await terminal.ended() == 0
        assert terminal.written == "Some **bold** words\r\n"


async def test_a_failed_turn_is_a_failure(chat):
    done = await chat.run("half {fail:It-broke.}")
    assert (done.code, done.out, done.err) == (1, "half \n", "kdcube: the turn failed: It-broke.\n")


async def test_a_reader_that_has_enough_ends_it_quietly(chat):
    command = [*chat.command("{many:20000}"), "|", "head", "-c", "3"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(
        " ".join(map(quoted, command)), env=chat.env, stdout=pipe, stderr=pipe
    )
    async with asyncio.timeout(_PATIENCE_S):
        assert await process.communicate() == (b"0 1", b"")


# --- what can go wrong


async def test_nobody_listens(chat):
    url = f"http://127.0.0.1:{free_port()}"
    done = await chat.run("--url", url, "Hello")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"kdcube: nothing listens at {url}; `kdcube up` starts it here\n"


@pytest.mark.parametrize("prefix", ["", "/chatbot/api", "/chatbot/api/"])
async def test_the_installation_is_found_with_the_prefix_or_without(chat, prefix):
    done = await chat.run("--url", chat.stack.ingress[1] + prefix, "Hello")
    assert (done.code, done.out) == (0, "Hello\n")


async def test_a_token_signs_in_and_one_that_is_not_valid_is_refused(chat, connect, talk_stack):
    done = await chat.run("--json", "Hello", KDCUBE_TOKEN="token-alice")
    assert done.events[0]["data"]["user_type"] == "registered"
    assert not (chat.state / "kdcube" / "sessions.json").exists()
    stored = await connect(talk_stack, "token-alice").conversation(done.events[0]["data"]["conversation_id"])
    assert stored["turns"][0]["answer"] == "Hello"
    done = await chat.run("--token", "no-such-token", "Hello")
    assert done.code == 1
    assert done.err == (
        "kdcube: The token is not valid, or not any more. (401; a token is given by --token or KDCUBE_TOKEN)\n"
    )


async def test_an_unknown_bundle_is_bad_input(chat):
    done = await chat.run("--bundle", "nobody@1", "Hello")
    assert done.code == 2
    assert done.err.startswith("kdcube: there is no bundle nobody@1 for you; there are: ")
    assert "talk@1.0.0" in done.err
    done = await chat.run("--bundle", "echo@1.0.0", "{fail:Hello}")
    assert (done.code, done.out) == (0, "{fail:Hello}\n")


# --- a session


async def test_a_session_is_one_conversation(chat):
    async with chat.session() as terminal:
        terminal.enter("one *two*")
        await terminal.shows(last("one two"))
        terminal.enter("three **four**")
        await terminal.shows(last("three four"))
        terminal.enter("/quit")
        assert await terminal.ended() == 0
        assert content(terminal.text)[1:] == ["› one *two*", "one two", "› three **four**", "three four"]
    async with chat.session() as terminal:
        terminal.enter("/conversations")
        await terminal.shows("  1  ")
        terminal.press(CTRL_D)
        assert await terminal.ended() == 0
        assert [line[23:] for line in content(terminal.text)[2:]] == ["one *two*"]


async def test_the_session_of_an_anonymous_user_is_for_its_owner_alone(chat):
    await chat.run("Hello")
    await chat.run("Hello again")
    file = chat.state / "kdcube" / "sessions.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())) == 1


async def test_conversations_are_found_opened_and_gone_on_with(chat):
    for text in ("about apples", "about pears", "about plums {cite:plums.md}"):
        await chat.run(text)
    async with chat.session() as terminal:
        terminal.enter("/conversations")
        await terminal.shows("  3  ")
        listed = [line[23:] for line in content(terminal.text)[-3:]]
        assert listed == ["about plums {cite:plums.md}", "about pears", "about apples"]
        terminal.enter("/open 1")
        await terminal.shows(last("     “What it says there.”"))
        terminal.enter("/conversations pears")
        await terminal.shows(lambda text: content(text)[-1].startswith("  1  "))
        terminal.enter("/open 1")
        await terminal.shows("── about pears")
        terminal.enter("and more of them")
        await terminal.shows(last("and more of them"))
        terminal.enter("/open 7")
        await terminal.shows("there is no conversation 7")
        terminal.enter("/open no-such-conversation")
        await terminal.shows("There is no such conversation.")
        terminal.enter("/new")
        await terminal.shows("a new conversation")
        terminal.enter("about nothing")
        await terminal.shows(last("about nothing"))
        terminal.enter("/conv")
        await terminal.shows("  4  ")
        listed = [line[23:] for line in content(terminal.text)[-4:]]
        assert listed == ["about nothing", "about pears", "about plums {cite:plums.md}", "about apples"]


async def test_a_question_is_asked_again_as_a_sibling(chat, tmp_path):
    gate = tmp_path / "gate"
    async with chat.session() as terminal:
        terminal.enter("/retry")
        await terminal.shows("there is nothing to ask again")
        terminal.enter(f"first {{hold:{gate}}}")
        await terminal.shows("\nfirst\n")
        terminal.press(CTRL_C)
        await terminal.shows("■ cancelled")
        gate.touch()
        terminal.enter("/retry")
        await terminal.shows(lambda text: last("first")(text) and text.count("\nfirst\n") == 2)
        terminal.enter("/conversations")
        await terminal.shows("  1  ")
        terminal.enter("/open 1")
        shown = await terminal.shows("── first")
        assert "  2  " not in shown


async def test_a_bundle_is_chosen(chat):
    async with chat.session() as terminal:
        terminal.enter("/bundle")
        await terminal.shows("→ talk@1.0.0")
        terminal.enter("/bundle echo@1.0.0")
        await terminal.shows("echo@1.0.0 answers from now on")
        terminal.enter("{think:aloud}")
        await terminal.shows(last("{think:aloud}"))
        terminal.enter("/bundle nobody")
        await terminal.shows("there is no bundle nobody")
        terminal.enter("/nonsense")
        await terminal.shows("there is no command /nonsense")


# --- while a turn runs


async def test_ctrl_c_cancels_the_turn_of_one_question(chat, tmp_path):
    async with chat.terminal(f"Half {{hold:{tmp_path}/never}} an answer") as terminal:
        await terminal.shows("Half")
        terminal.press(CTRL_C)
        assert await terminal.ended() == 1
        assert content(terminal.text) == ["cancelling; Ctrl-C again leaves", "Half", "■ cancelled"]


async def test_ctrl_c_twice_leaves_and_the_turn_goes_on(chat, tmp_path):
    gate = tmp_path / "gate"
    async with chat.session() as terminal:
        terminal.enter(f"Half {{hold:{gate}}} an answer")
        await terminal.shows("\nHalf\n")
        terminal.enter("/quit")
        assert await terminal.ended() == 0
    async with chat.session() as terminal:
        terminal.enter("/open 1")
        await terminal.shows("\nHalf\n")
        gate.touch()
        await terminal.shows(last("Half an answer"))
        terminal.press(CTRL_C)
        await terminal.shows("Ctrl-C again leaves")
        terminal.press(CTRL_C)
        assert await terminal.ended() == 130


async def test_a_line_that_is_typed_meanwhile_steers_the_turn(chat, tmp_path):
    gate = tmp_path / "gate"
    async with chat.session() as terminal:
        terminal.enter(f"Half {{hold:{gate}}} an answer")
        await terminal.shows("\nHalf\n")
        terminal.enter("be brief")
        await terminal.shows("[steer: be brief]")
        gate.touch()
        shown = await terminal.shows("applied: be brief")
        assert "↪ be brief\n  accepted\n" in shown
        await terminal.shows("\nHalf [steer: be brief] an answer\n")


# --- through a killed ingress


async def test_an_answer_goes_on_where_it_stood_when_ingress_is_killed(chat, tmp_path):
    """At a terminal and as events; the ingress process that both read from is killed in the middle of the answers."""
    gate = tmp_path / "gate"
    numbers = " ".join(map(str, range(300)))
    question = f"Start {{many:300}}\n\n{{hold:{gate}}} middle\n\n{{many:300}} end"
    async with chat.terminal(question, columns=120) as terminal, chat.running("--json", question) as process:
        lines = [await process.stdout.readline()]
        while b'299 "' not in lines[-1]:
            lines.append(await process.stdout.readline())
        await terminal.shows(" 299")
        chat.stack.kill("ingress-0")
        await terminal.shows("trying again")
        gate.touch()
        assert await terminal.ended() == 0
        shown = " ".join(" ".join(content(terminal.text)).split())
        assert shown == f"Start {numbers} middle {numbers} end"
        out, err = await process.communicate()
    done = Done(process.returncode, b"".join(lines) + out, err)
    assert done.code == 0, done.err
    assert "trying again" in done.err
    told = [event for event in done.events[1:] if "id" in event]
    assert len({event["id"] for event in told}) == len(told)
    assert [event["data"]["offset"] for event in told] == list(range(1, len(told) + 1))
    text = "".join(event["data"]["delta"]["text"] for event in told if event["event"] == "chat_delta")
    assert text == told[-1]["data"]["data"]["answer"]
    assert text.split() == f"Start {numbers} middle {numbers} end".split()

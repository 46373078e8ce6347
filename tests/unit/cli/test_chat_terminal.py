"""The conversation as a terminal shows it."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.cli.terminal import Terminal, opened
from tests.unit.client.installation import complete, delta, resync, service, sse, start

from kdcube.cli.chat.inputs import Break, End, Inputs, Line
from kdcube.cli.chat.terminal import TerminalView
from kdcube.client import Reading
from kdcube.client.events import read_event
from kdcube.client.sse import EventParser

pytestmark = pytest.mark.anyio

CITATIONS = [
    {"n": 1, "title": "start.md", "uri": "docs/start.md", "heading": "Start", "quote": "make  up\nstarts it"},
    {"n": 2, "title": "The proxy", "uri": "docs/proxy.md"},
    {"n": 3, "title": "The proxy", "uri": "docs/proxy.md#tls", "heading": "TLS"},
    {"n": 4, "title": "A page", "uri": "https://example.org/a#tls", "heading": "TLS"},
]


class Turn:
    """Gives events to a view, as a session does."""

    def __init__(self, view: TerminalView, text: str = "A question") -> None:
        self.view = view
        self.reading = Reading()
        view.asked(text)

    def say(self, *parts: bytes) -> None:
        parser = EventParser()
        for part in parts:
            for source in parser.feed(part):
                event = read_event(source)
                replaced = self.reading.add(event)
                self.view.event(event, self.reading, replaced=replaced)

    def end(self, **data: object) -> None:
        self.say(complete(**data))
        self.view.ended(self.reading)


def step(title: str, status: str) -> bytes:
    return sse("chat_step", {"type": "chat.step", "event": {"step": title, "title": title, "status": status}})


async def test_an_answer_is_rendered_while_it_comes():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("# Title\n\nSome **bo"))
        await terminal.shows("Title")
        turn.say(delta("ld** text"))
        shown = await terminal.shows("Some bold text")
        assert "answering" in shown
        turn.end()
    assert terminal.lines == ["", "› A question", "", "Title", "", "Some bold text"]


async def test_an_answer_that_was_not_streamed_is_shown():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start())
        turn.end(answer="Yes")
    assert terminal.lines[-1] == "Yes"


async def test_sources_are_numbered_with_file_heading_and_quote():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("See [1]."), service("turn.citations", CITATIONS[:1]))
        turn.say(service("turn.citations", CITATIONS[1:]), service("turn.followups", ["And then?"]))
        turn.end()
    assert terminal.text.endswith(
        "See [1].\n\nSources\n [1] docs/start.md › Start\n     “make up starts it”\n"
        " [2] The proxy (docs/proxy.md)\n [3] docs/proxy.md › TLS\n [4] https://example.org/a#tls › TLS\n"
        "\nYou could ask:\n  · And then?"
    )


async def test_steps_the_queue_and_lost_connections_are_told():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        await terminal.shows("sending")
        turn.say(service("queue.position", {"position": 3, "eta_s": 11.6}))
        await terminal.shows("queued: position 3, about 12 s")
        turn.say(start())
        await terminal.shows("working")
        turn.say(step("Searching", "started"))
        await terminal.shows("Searching")
        turn.say(step("Searching", "completed"))
        await terminal.shows("✓ Searching")
        view.retrying("the connection was closed", 1.0)
        await terminal.shows("the connection was closed; trying again")
        turn.say(delta("Fou"))
        await terminal.shows("answering")
        view.retrying("the connection was closed", 1.0)
        await terminal.shows("the connection was closed; trying again")
        turn.say(delta("nd."))
        await terminal.shows("answering")
        turn.end()
    assert terminal.lines[-3:] == ["✓ Searching", "", "Found."]


async def test_a_step_does_not_stand_within_a_block_of_the_answer():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("One line"), step("Searching", "completed"), delta(" that goes on.\n\nAnother"))
        await terminal.shows("Another")
        turn.say(step("Writing", "completed"), delta(" one."))
        turn.end()
    assert terminal.lines[3:] == ["One line that goes on.", "✓ Searching", "", "Another one."]


async def test_a_step_around_the_answer_does_not_stand_in_it():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(step("Answering", "started"), delta("One.\n\nTw"), step("Answering", "completed"), delta("o."))
        turn.say(step("Looking", "started"), step("Looking", "completed"), delta("\n\nThree."))
        turn.end()
    assert [line for line in terminal.lines[2:] if line] == ["One.", "Two.", "✓ Looking", "Three."]


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ("cancelled", None, "■ cancelled"),
        ("failed", {"code": "c", "message": "It broke."}, "✗ failed: It broke."),
        ("interrupted", None, "✗ interrupted: the system cut it off"),
    ],
)
async def test_how_a_turn_ended_is_told(state, error, told):
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("Half an ans"))
        turn.end(state=state, error=error)
    again = [] if state == "cancelled" else ["  /retry asks again"]
    assert terminal.lines[-3 - len(again) :] == ["Half an ans", "", told, *again]


async def test_a_resync_that_goes_on_doubles_nothing():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("One.\n\nTwo.\n\nThr"))
        await terminal.shows("Thr")
        turn.say(resync("One.\n\nTwo.\n\nThree.\n\nFo"), delta("ur."))
        turn.end()
    assert [line for line in terminal.lines if line] == ["› A question", "One.", "Two.", "Three.", "Four."]


async def test_a_resync_that_says_something_else_replaces_what_is_shown():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("Lost.\n\nLost too.\n\nAnd th"))
        await terminal.shows("And th")
        turn.say(resync("Found.\n\n", attempt=2), delta("Done."))
        turn.end()
    assert [line for line in terminal.lines if line] == ["› A question", "Found.", "Done."]


async def test_what_has_left_the_screen_is_not_replaced_silently():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("Lost.\n\n" * 30 + "And"))
        await terminal.shows("And")
        turn.say(resync("Found.", attempt=2))
        turn.end()
    assert "the answer begins again" in terminal.text
    assert terminal.lines[-1] == "Found."


async def test_what_stands_stays_while_more_comes():
    """No flicker: wherever a terminal may show its screen, everything that was printed before is still there."""
    terminal = Terminal(columns=60, rows=12)
    seen: list[str] = []

    def look() -> None:
        blocks = [line for line in terminal.lines if line.startswith("Block")]
        assert blocks[: len(seen)] == seen, terminal.text
        seen[:] = [line for line in blocks if line.endswith(".")]

    terminal.on_whole = look
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start())
        for number in range(60):
            for part in ("Block ", f"{number} ", "is ", "here", ".\n\n"):
                turn.say(delta(part))
                await asyncio.sleep(0)
            if number % 7 == 0:
                await terminal.shows(f"Block {number} is here.")
        turn.end()
    assert seen == [f"Block {number} is here." for number in range(60)]


async def test_a_long_block_shows_its_end():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("".join(f"{number} " for number in range(5_000))))
        await terminal.shows("4999")
        turn.end()
    assert "".join(terminal.lines[3:]).count("4999") == 1
    assert " ".join(" ".join(terminal.lines[3:]).split()) == " ".join(map(str, range(5_000)))


async def test_without_styles_the_answer_is_its_source():
    terminal = Terminal()
    async with opened(terminal, Inputs(), styles=False) as (view, _):
        turn = Turn(view)
        turn.say(start(), delta("# Title\n\nSome **bold** text"))
        turn.end()
    assert terminal.lines[-3:] == ["# Title", "", "Some **bold** text"]
    assert "\x1b[1m" not in terminal.written
    assert "\x1b[3" not in terminal.written


async def test_what_an_answer_holds_does_not_reach_the_terminal_as_an_order():
    terminal = Terminal()
    async with opened(terminal, Inputs()) as (view, _):
        turn = Turn(view, "\x1b]0;title\x07")
        turn.say(start(), delta("a\x1b]52;c;aGk=\x07b"), step("\x1b[2J", "completed"))
        turn.say(service("turn.citations", [{"n": 1, "title": "\x1b]0;x\x07", "uri": "u\x1b[2J"}]))
        turn.end(state="failed", error={"message": "\x1b]0;y\x07"})
    for order in ("\x1b]", "\x1b[2J", "\x07"):
        assert order not in terminal.written


# --- keys


async def typed(keys: str) -> list[object]:
    """What the user has done by these keys and then Ctrl-D."""
    inputs, terminal = Inputs(), Terminal()
    async with opened(terminal, inputs) as (_, keyboard):
        keyboard.send_text(keys + "\x04")
        done: list[object] = []
        async with asyncio.timeout(20):
            while not isinstance(given := await inputs.get(), End):
                done.append(given)
    return done


async def test_lines_are_entered_and_edited():
    assert await typed("hello\rworl\x01hello \x05d\r") == [Line("hello"), Line("hello world")]
    assert await typed("abc\x7fd\r") == [Line("abd")]


async def test_a_line_may_hold_lines():
    assert await typed("one\x1b\rtwo\r") == [Line("one\ntwo")]


async def test_pasted_lines_are_one():
    assert await typed("\x1b[200~one\ntwo\n\x1b[201~\r") == [Line("one\ntwo")]


async def test_what_was_typed_before_is_had_again():
    inputs, terminal = Inputs(), Terminal()
    async with opened(terminal, inputs) as (_, keyboard):
        keyboard.send_text("first\rsecond\rx")
        await terminal.shows("› x")
        keyboard.send_text("\x7f\x1b[A\x1b[A\r")
        assert [await inputs.get() for _ in range(3)] == [Line("first"), Line("second"), Line("first")]


async def test_nothing_typed_is_nothing_said():
    assert await typed("  \r\r") == []


async def test_ctrl_c_clears_a_line_that_is_being_typed():
    assert await typed("oops\x03") == []
    assert await typed("\x03") == [Break()]


async def test_ctrl_c_cancels_while_a_turn_runs_whatever_is_typed():
    inputs, terminal = Inputs(), Terminal()
    async with opened(terminal, inputs) as (view, keyboard):
        Turn(view)
        keyboard.send_text("half a li\x03")
        assert await inputs.get() == Break()
        await terminal.shows("half a li")
        view.ended(None)

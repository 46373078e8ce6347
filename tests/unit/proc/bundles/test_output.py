import pytest

from kdcube.proc.bundles.output import BYTES_PER_S, LINES_PER_S, MAX_LINE_BYTES, OutputLines

pytestmark = pytest.mark.anyio


class Captured:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped: list[int] = []
        self.now = 0.0
        self.output = OutputLines(self.lines.append, self.dropped.append, lambda: self.now)


async def test_lines_are_put_together_from_pieces():
    captured = Captured()
    for piece in (b"one\ntw", b"o\n\nthr", b"ee"):
        captured.output.data_received(piece)
    assert captured.lines == ["one", "two"]
    captured.output.connection_lost(None)
    assert captured.lines == ["one", "two", "three"]
    assert captured.output.ended.is_set()


async def test_long_line_is_cut_and_its_rest_left_out():
    captured = Captured()
    captured.output.data_received(b"x" * (MAX_LINE_BYTES + 1))
    captured.output.data_received(b"y" * MAX_LINE_BYTES)
    captured.output.data_received(b"y\nnext\n")
    assert captured.lines == ["x" * MAX_LINE_BYTES + " …", "next"]


async def test_flood_is_counted_not_kept():
    captured = Captured()
    captured.output.data_received(b"line\n" * (LINES_PER_S + 20))
    assert len(captured.lines) == LINES_PER_S
    captured.now = 1.0
    captured.output.data_received(b"after\n")
    assert captured.dropped == [20]
    assert captured.lines[-1] == "after"


class Pipe:
    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def test_what_is_printed_beyond_the_limit_waits_until_it_is_read():
    captured, pipe = Captured(), Pipe()
    captured.output.connection_made(pipe)
    captured.output.data_received(b"x" * (BYTES_PER_S + 1))
    assert not pipe.reading
    captured.output.finish()
    assert pipe.reading
    captured.output.data_received(b"x" * (BYTES_PER_S + 1) + b"\nlast\n")
    assert pipe.reading
    assert captured.lines[-1] == "last"


async def test_a_line_whose_beginning_was_left_out_is_left_out():
    captured = Captured()
    captured.output.data_received(b"line\n" * LINES_PER_S + b"out\nbegin")
    captured.now = 1.0
    captured.output.data_received(b"ning\nafter\n")
    assert captured.dropped == [2]
    assert captured.lines[LINES_PER_S:] == ["after"]


async def test_bytes_that_are_no_text():
    captured = Captured()
    captured.output.data_received(b"\xff\xfe\n")
    assert captured.lines == ["��"]

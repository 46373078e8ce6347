"""Server-sent events as the HTML standard has them, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcube.client.sse import EventParser, ServerSentEvent


def parsed(*chunks: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_an_event_has_an_id_a_name_and_data():
    assert parsed(b'id: t1.7\nevent: chat_delta\ndata: {"a": 1}\n\n') == [
        ServerSentEvent("t1.7", "chat_delta", '{"a": 1}')
    ]


def test_what_is_not_there_has_its_default():
    assert parsed(b"data\n\n") == [ServerSentEvent(None, "message", "")]


def test_the_id_of_one_event_is_not_that_of_the_next():
    assert [event.id for event in parsed(b"id: 1\ndata: a\n\ndata: b\n\n")] == ["1", None]


def test_data_of_several_lines_is_joined():
    assert parsed(b"data: one\ndata:two\ndata:  three\n\n")[0].data == "one\ntwo\n three"


def test_comments_unknown_fields_and_events_without_data_say_nothing():
    assert parsed(b": keep-alive\n\nwhatever: x\nid: 9\n\nevent: e\n\ndata: d\n\n") == [
        ServerSentEvent(None, "message", "d")
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_in_three_ways(end):
    stream = end.join([b"id: 1", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    assert parsed(stream) == [ServerSentEvent("1", "message", "a\nb"), ServerSentEvent(None, "message", "c")]


def test_other_line_separators_are_text():
    text = "a\u2028b\u2029c\x85d\x0be\x0cf"
    assert parsed(f"data: {text}\n\n".encode())[0].data == text


def test_a_byte_order_mark_is_dropped_at_the_beginning_only():
    assert parsed(b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n") == [
        ServerSentEvent(None, "message", "a"),
        ServerSentEvent(None, "message", "\ufeffb"),
    ]


def test_an_event_without_its_end_is_not_given_out():
    assert parsed(b"data: a\n\ndata: b\n") == [ServerSentEvent(None, "message", "a")]


def test_an_id_with_a_null_character_does_not_count():
    assert parsed(b"id: a\0b\ndata: x\n\n")[0].id is None


def test_the_pause_before_a_reconnect_is_remembered():
    parser = EventParser()
    parser.feed(b"retry: 250\nretry: soon\ndata: x\n\n")
    assert parser.retry_ms == 250


_LINES = st.lists(
    st.sampled_from([b"data: \xc3\xa9\xe2\x82\xac", b"data:", b"id: 1", b"event: e", b": c", b"retry: 5", b"", b"x"]),
    max_size=20,
)


@given(_LINES, st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(0, 300)), st.booleans())
def test_where_the_bytes_are_cut_does_not_matter(lines, end, cuts, marked):
    stream = (b"\xef\xbb\xbf" if marked else b"") + b"".join(line + end for line in lines)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert parsed(*chunks) == parsed(stream)
    assert parsed(*(stream[n : n + 1] for n in range(len(stream)))) == parsed(stream)

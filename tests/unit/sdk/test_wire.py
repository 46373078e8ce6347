import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcube.sdk.outlet import split_text
from kdcube.sdk.wire import (
    MAX_FRAME_BYTES,
    Cancel,
    Delta,
    Ended,
    FrameReader,
    Service,
    Step,
    WireError,
    encode_frames,
    encode_message,
    from_host_decoder,
    to_host_decoder,
)

MESSAGES = [Delta(1, "text"), Step(1, {"step": "s"}), Service(2, "turn.usage", {"n": 1}), Ended(1, "completed")]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_come_back_however_the_bytes_are_cut(size):
    data = b"".join(encode_frames(MESSAGES) + encode_frames(MESSAGES))
    reader = FrameReader(from_host_decoder)
    got = [message for at in range(0, len(data), size) for message in reader.feed(data[at : at + size])]
    assert got == MESSAGES + MESSAGES


def test_many_messages_are_several_frames():
    messages = [Delta(1, "x" * 30_000)] * 3000
    frames = encode_frames(messages)
    assert max(len(frame) for frame in frames) <= MAX_FRAME_BYTES
    reader = FrameReader(from_host_decoder)
    assert sum(len(reader.feed(frame)) for frame in frames) == 3000


def test_message_over_the_limit_is_refused():
    with pytest.raises(WireError, match="over the limit"):
        encode_frames([Delta(1, "x" * MAX_FRAME_BYTES)])


def test_prepared_messages_go_between_others():
    raw = msgspec.Raw(encode_message(Cancel(2, "b")))
    (_, body) = encode_frames([Cancel(1, "a"), raw])
    assert to_host_decoder.decode(body) == [Cancel(1, "a"), Cancel(2, "b")]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 3) + b"\x91\x91\x63",
    ],
    ids=["too long", "no msgpack", "unknown tag"],
)
def test_what_is_not_in_the_language_is_refused(data):
    with pytest.raises(WireError):
        FrameReader(from_host_decoder).feed(data)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(4, 9))
def test_split_text_loses_nothing_and_keeps_to_the_limit(text, limit):
    pieces = list(split_text(text, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= limit for piece in pieces)


def test_a_deltas_size_is_that_of_its_utf8():
    assert Delta(1, "abc").n_bytes == 3
    assert Delta(1, "€").n_bytes == 3

"""Published changes as their readers see them."""

from __future__ import annotations

from kdcube.redis.eventlog import LogChange, decode_change, next_line
from kdcube.redis.feed import FeedChange, decode_feed_change


def test_a_change_with_lines():
    payload = b"7 1 3 5 open 0\ndelta {}\nstep {}"
    assert decode_change(payload) == LogChange(7, 1, 3, 5, False, None, [b"delta {}", b"step {}"])


def test_a_change_with_a_head_that_holds_line_feeds():
    head = b'"a":\n1'
    payload = b"7 2 0 1 open %d\n" % len(head) + head + b"start {}"
    assert decode_change(payload) == LogChange(7, 2, 0, 1, False, head, [b"start {}"])


def test_a_change_that_was_too_large_to_be_published():
    assert decode_change(b"7 1 3 5 closed 0\n") == LogChange(7, 1, 3, 5, True, None, None)


def test_large_numbers():
    assert decode_change(b"1 1 999999999999999 1000000000000000 open 0\nx {}").offset == 10**15


def test_a_feeds_change():
    assert decode_feed_change(b'0a1b2c3d 12\n{"type":"x"}') == FeedChange("0a1b2c3d", 12, {"type": "x"})


def test_the_next_line_is_read_off_without_decoding():
    assert next_line(b'7 2 3 4 open 0\ndelta {"a":1}', 7, 2, 3) == b'delta {"a":1}'
    others = (
        b"7 2 3 4 open 0\n",  # too large to be published
        b"7 2 3 5 open 0\ndelta {}\ndelta {}",
        b"7 2 3 4 closed 0\nend {}",
        b"7 2 3 4 open 2\n{}delta {}",
        b"7 2 4 5 open 0\ndelta {}",
        b"7 1 3 4 open 0\ndelta {}",
        b"8 2 3 4 open 0\ndelta {}",
    )
    assert [next_line(payload, 7, 2, 3) for payload in others] == [None] * len(others)

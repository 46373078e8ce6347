from __future__ import annotations

import msgspec
import pytest

from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import TurnEnvelope, UserType, decode_envelope, encode_envelope

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_one_is_taken_as_it_is():
    context = TraceContext.parse(GOOD, "vendor=a,other=b")
    assert context == TraceContext(GOOD, "vendor=a,other=b")
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, SPAN, True)
    assert context.headers == {"traceparent": GOOD, "tracestate": "vendor=a,other=b"}
    assert TraceContext.parse(f"00-{TRACE}-{SPAN}-00").headers == {"traceparent": f"00-{TRACE}-{SPAN}-00"}


@pytest.mark.parametrize(
    "given",
    [
        *("", "00", GOOD + "-more", GOOD + "x", GOOD + "\n", " " + GOOD, GOOD.upper(), GOOD.replace("-", "_")),
        *(
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE[1:]}-{SPAN}-01",
        ),
        *(f"00-{TRACE}-{SPAN}-1", f"0-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01more", f"00-{TRACE[:-1]}g-{SPAN}-01"),
    ],
)
def test_what_is_not_well_formed_is_none(given):
    assert TraceContext.parse(given) is None


@pytest.mark.parametrize("given", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-09-what-the-future-is-like"])
def test_a_later_version_is_read_as_far_as_it_is_known(given):
    assert TraceContext.parse(given) == TraceContext(GOOD)


@pytest.mark.parametrize("state", ["a=b\r\nx: y", "a=\x7f", "ä=b", "a=" + "b" * 511])
def test_a_state_that_cannot_be_passed_on_is_left_out(state):
    assert TraceContext.parse(GOOD, state) == TraceContext(GOOD)


def test_a_new_one_is_well_formed_and_recorded_by_nobody():
    made = {TraceContext.new() for _ in range(100)}
    assert len({context.trace_id for context in made}) == 100
    assert all(TraceContext.parse(context.traceparent) == context and not context.sampled for context in made)


class EnvelopeBefore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As far as a worker of the release without traces knows it."""

    turn_id: str
    text: str
    version: int = 1


def test_the_release_before_reads_an_envelope_with_a_trace_and_we_read_its():
    values = dict.fromkeys(
        ("turn_id", "client_turn_id", "tenant", "project", "user_id", "session_id", "request_id", "conversation_id"),
        "x",
    )
    envelope = TurnEnvelope(
        **values,
        user_type=UserType.PAID,
        bundle_id="b",
        text="hi",
        content_hash="h",
        traceparent=GOOD,
        tracestate="a=b",
    )
    packed = encode_envelope(envelope)
    assert decode_envelope(packed).trace == TraceContext(GOOD, "a=b")
    assert msgspec.msgpack.decode(packed, type=EnvelopeBefore) == EnvelopeBefore(turn_id="x", text="hi")
    old = encode_envelope(msgspec.structs.replace(envelope, traceparent="", tracestate=""))
    assert b"traceparent" not in old and decode_envelope(old).trace is None

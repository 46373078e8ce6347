"""The log of a turn as a chat completion: what is sent, once and in order, however the log comes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcube.ingress.streams.projection.openai import Completion
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.events import Fold, Kind, encode_line
from kdcube.protocol.turns import TurnState

_AT = {"ts_ms": 1_700_000_000_000}


def completion(*, whole: bool = False, include_usage: bool = False) -> Completion:
    return Completion(
        turn_id="t1", conversation_id="c1", model="echo", created_s=1, whole=whole, include_usage=include_usage
    )


def start(attempt: int = 1) -> bytes:
    return encode_line(Kind.START, "chat.start", attempt=attempt, **_AT)


def delta(text: str, marker: str = "answer") -> bytes:
    return encode_line(Kind.DELTA, "chat.delta", attempt=1, delta={"text": text, "marker": marker}, **_AT)


def service(type_: str, data: Any) -> bytes:
    return encode_line(Kind.SERVICE, type_, attempt=1, data=data, **_AT)


def end(answer: str = "", state: TurnState = TurnState.COMPLETED, **error: str) -> bytes:
    return terminal_line(state, attempt=1, answer=answer, error=error or None, **_AT)


def snapshot(attempt: int = 1, **text: str) -> bytes:
    data = {"turn_id": "t1", "attempt": attempt, "state": "running", "text": text}
    return encode_line(Kind.SNAPSHOT, "turn.snapshot", attempt=attempt, data=data, **_AT)


def events(data: bytes) -> list[Any]:
    """The data of each event, [DONE] as such."""
    frames = data.decode().split("\n\n")
    assert frames.pop() == ""
    told = [frame.removeprefix("data: ") for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in told]


def said(told: list[Any], field: str = "content") -> str:
    chunks = [event["choices"][0]["delta"] for event in told if event != "[DONE]" and event.get("choices")]
    return "".join(chunk.get(field) or "" for chunk in chunks)


def code(told: list[Any]) -> str | None:
    return told[-1]["error"]["code"] if "error" in told[-1] else None


def test_a_stream_from_its_role_to_done() -> None:
    told = events(completion().take([start(), delta("Hel"), delta("lo"), end("Hello")]))
    first, text, last, done = told
    assert first == {
        "id": "chatcmpl-t1", "created": 1, "model": "echo", "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
        ],
        "kdcube": {"turn_id": "t1", "conversation_id": "c1"},
    }  # fmt: skip
    assert text["choices"][0]["delta"] == {"content": "Hello"}
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert done == "[DONE]"


def test_each_batch_goes_out_when_it_comes() -> None:
    stream = completion()
    assert [said(events(stream.take([line]))) for line in (start(), delta("a"), delta("b"), end("ab"))] == [
        "", "a", "b", "",
    ]  # fmt: skip
    assert stream.ended


def test_thoughts_are_reasoning_and_other_markers_are_not_shown() -> None:
    lines = [start(), delta("Hm", "thinking"), delta("<svg>", "canvas"), delta("m", "thinking"), delta("So"), end("So")]
    told = events(completion().take(lines))
    assert [event["choices"][0]["delta"] for event in told[1:-2]] == [{"reasoning_content": "Hmm"}, {"content": "So"}]


def test_usage_is_the_sum_and_only_told_when_asked_for() -> None:
    lines = [
        start(),
        service("turn.usage", {"model": "a", "input_tokens": 3, "output_tokens": 1}),
        service("turn.usage", {"model": "b", "input_tokens": 4, "output_tokens": 2}),
        service("turn.usage", ["of another shape"]),
        end(),
    ]
    *chunks, usage, done = events(completion(include_usage=True).take(lines))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]) == (
        [],
        {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    )
    assert done == "[DONE]"
    assert all("usage" not in chunk for chunk in events(completion().take(lines))[:-1])


def test_an_answer_in_one_piece() -> None:
    whole = completion(whole=True)
    assert whole.take([start(), delta("Hm", "thinking"), delta("a"), service("turn.citations", [{"n": 1}])]) == b""
    assert not whole.ended
    assert whole.take([end("a")]) == b""
    body = whole.body()
    assert whole.ended and whole.failure is None
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a", "refusal": None, "reasoning_content": "Hm"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["total_tokens"] == 0
    assert body["kdcube"] == {"turn_id": "t1", "conversation_id": "c1", "citations": [{"n": 1}]}


def test_sources_stand_below_the_answer() -> None:
    told = [
        {"n": 1, "title": "Guide", "uri": "docs/guide.md#up", "heading": "Up"},
        {"n": 2, "title": "", "uri": "https://example.org/a"},
        {"n": "of another shape"},
    ]
    lines = [start(), delta("Yes [1]."), service("turn.citations", told), end("Yes [1].")]
    sources = "\n\nSources:\n\n[1] docs/guide.md#up (Up)\n[2] https://example.org/a"
    whole = completion(whole=True)
    whole.take(lines)
    assert whole.body()["choices"][0]["message"]["content"] == "Yes [1]." + sources
    chunks = events(completion().take(lines))[:-1]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Yes [1]." + sources


def test_an_answer_in_one_piece_is_the_last_attempts() -> None:
    whole = completion(whole=True)
    whole.take([start(1), delta("one"), start(2), delta("two"), end("two")])
    assert whole.body()["choices"][0]["message"]["content"] == "two"


ENDS = [
    (TurnState.FAILED, {"code": "no_luck", "message": "No luck."}, "no_luck", 500),
    (TurnState.INTERRUPTED, {"code": "host_died", "message": "Interrupted."}, "host_died", 500),
    (TurnState.INTERRUPTED, {}, "interrupted", 500),
    (TurnState.CANCELLED, {}, "cancelled", 409),
]


@pytest.mark.parametrize(("state", "error", "expected", "status"), ENDS)
def test_a_turn_without_an_answer_is_an_error(state: TurnState, error: Any, expected: str, status: int) -> None:
    lines = [start(), delta("par"), end("par", state, **error)]
    told = events(completion().take(lines))
    assert (said(told[:-1]), code(told)) == ("par", expected)
    whole = completion(whole=True)
    assert whole.take(lines) == b""
    assert whole.failure is not None
    assert (whole.failure.status, whole.failure.code) == (status, expected)


def test_what_is_too_long_ends_by_its_length() -> None:
    lines = [start(), delta("long"), end("long", TurnState.FAILED, code="output_limit", message="Too long.")]
    told = events(completion().take(lines))
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert told[-1] == "[DONE]"


def test_a_turn_that_never_started() -> None:
    told = events(completion().take([end("", TurnState.FAILED, code="queue_timeout", message="Too late.")]))
    assert [code(told)] == ["queue_timeout"]
    told = events(completion().take([end("told at the end")]))
    assert (told[0]["choices"][0]["delta"]["role"], said(told)) == ("assistant", "told at the end")


def test_nothing_follows_an_end() -> None:
    stream = completion()
    stream.take([start(), end()])
    assert stream.take([delta("more"), end()]) == b""
    assert stream.leave() == b""


def test_a_process_that_stops_says_so() -> None:
    stream = completion()
    stream.take([start(), delta("a")])
    assert code(events(stream.leave())) == "server_shutdown"


# --- beginning anew


@pytest.mark.parametrize("anew", [start(2), snapshot(), snapshot(2)])
def test_what_was_sent_is_not_sent_again(anew: bytes) -> None:
    stream = completion()
    before = events(stream.take([start(), delta("Hm", "thinking"), delta("one two")]))
    silent = stream.take([anew, delta("Hm", "thinking"), delta("one ")])
    after = events(stream.take([delta("two three"), end("one two three")]))
    assert silent == b""
    assert said(before) + said(after) == "one two three"
    assert said(before + after, "reasoning_content") == "Hm"
    assert code(after) is None


def test_a_snapshot_brings_what_was_missed() -> None:
    stream = completion()
    told = events(stream.take([start(), delta("one ")]))
    told += events(stream.take([snapshot(thinking="Hm", answer="one two ")]))
    told += events(stream.take([delta("three"), end("one two three")]))
    assert (said(told), said(told, "reasoning_content")) == ("one two three", "Hm")


def test_a_snapshot_at_the_beginning_is_said() -> None:
    told = events(completion().take([snapshot(thinking="Hm", answer="one"), end("one")]))
    assert [event["choices"][0]["delta"] for event in told[:-2]] == [
        {"role": "assistant", "content": ""}, {"reasoning_content": "Hm"}, {"content": "one"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        [start(2), delta("one three")],
        [snapshot(answer="two")],
        [start(2), delta("one "), end("one ")],
        [start(2), end("")],
    ],
)
def test_another_answer_than_what_was_sent_is_an_error(lines: list[bytes]) -> None:
    stream = completion()
    stream.take([start(), delta("one two")])
    told = events(stream.take(lines))
    assert [code(told)] == ["answer_began_anew"]
    assert stream.ended


def test_an_attempt_of_which_nothing_was_sent_makes_no_difference() -> None:
    stream = completion()
    told = events(stream.take([start(1)])) + events(stream.take([start(2), delta("two"), end("two")]))
    assert said(told) == "two"
    assert sum("role" in event["choices"][0]["delta"] for event in told[:-1]) == 1


_TEXTS = st.lists(st.tuples(st.sampled_from(["answer", "thinking", "canvas"]), st.text("ab", min_size=1, max_size=2)))


@given(texts=_TEXTS, cuts=st.sets(st.integers(0, 12)), lost=st.sets(st.integers(0, 12)), again=st.integers(1, 3))
def test_however_the_log_comes_its_text_is_told_once(
    texts: list[tuple[str, str]], cuts: set[int], lost: set[int], again: int
) -> None:
    """In batches that are cut anywhere, with snapshots in the place of lost lines, and attempts that say the same."""
    fold = Fold("t1")
    lines: list[bytes] = []
    for attempt in range(1, again + 1):
        for number, line in enumerate([start(attempt), *(delta(text, marker) for marker, text in texts)]):
            fold.add(line)
            folded = fold.snapshot()
            lines.append(snapshot(folded.attempt, **folded.text) if number in lost else line)
    lines.append(end(fold.text()))
    stream = completion()
    at = sorted({0, len(lines), *(cut for cut in cuts if cut < len(lines))})
    told = [event for begin, until in pairwise(at) for event in events(stream.take(lines[begin:until]))]
    assert stream.ended
    assert told[-1] == "[DONE]"
    for marker, field in (("answer", "content"), ("thinking", "reasoning_content")):
        assert said(told, field) == "".join(text for of, text in texts if of == marker)

"""What a chat completion asks, as a message and a history."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.errors import BadRequest, Problem
from kdcube.ingress.routes.openai_errors import openai_error
from kdcube.ingress.routes.openai_request import Asked, ChatCompletion, understand
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import EarlierMessage, Policy

LIMITS = GatewayConfig(tenant="t", project="p").limits.ingress


def ask(*messages: tuple[str, Any], **members: Any) -> Asked:
    given = [{"role": role, "content": content} for role, content in messages]
    body = {"model": "echo", "messages": given, **members}
    return understand(msgspec.convert(body, ChatCompletion), LIMITS)


def test_the_last_message_is_the_message_and_what_was_before_the_history() -> None:
    asked = ask(("system", "A"), ("user", "one"), ("assistant", None), ("assistant", "two"), ("user", "three"))
    assert asked.message.text == "three"
    assert asked.message.bundle_id == "echo"
    assert asked.message.payload == {"system": "A"}
    assert asked.history == [EarlierMessage("user", "one"), EarlierMessage("assistant", "two")]
    assert (asked.message.policy, asked.message.conversation_id) == (Policy.ENQUEUE, None)
    assert not asked.cancel_on_disconnect


def test_a_system_message_may_stand_anywhere() -> None:
    asked = ask(("user", "hi"), ("developer", [{"type": "text", "text": "B"}]), ("system", ""))
    assert (asked.message.text, asked.message.payload) == ("hi", {"system": "B"})


def test_the_extension() -> None:
    extension = {"payload": {"a": 1}, "policy": "reject", "cancel_on_disconnect": True, "conversation_id": "c"}
    asked = ask(("user", "one"), ("assistant", "two"), ("user", "three"), kdcube=extension)
    assert asked.message.payload == {"a": 1}
    assert (asked.message.policy, asked.message.conversation_id) == (Policy.REJECT, "c")
    assert asked.cancel_on_disconnect
    assert asked.history == ()


def test_nul_is_replaced_as_in_what_is_stored() -> None:
    asked = ask(("user", "a\0"), ("assistant", "b\0"), ("user", "c\0"))
    assert [message.text for message in asked.history] == ["a\ufffd", "b\ufffd"]
    assert asked.message.text == "c\ufffd"


def test_a_conversation_is_named_once() -> None:
    for metadata, extension in (({"conversation_id": "c"}, {}), ({"conversation_id": "c"}, {"conversation_id": "c"})):
        assert ask(("user", "a"), metadata=metadata, kdcube=extension).message.conversation_id == "c"
    for metadata in ({"conversation_id": 5}, {"conversation_id": "other"}):
        with pytest.raises(InvalidInput):
            ask(("user", "a"), metadata=metadata, kdcube={"conversation_id": "c"})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {}}, "audio"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0]"),
]


@pytest.mark.parametrize(("members", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_what_cannot_be_kept_is_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ask(("user", "a"), **members)
    assert (refused.value.error, refused.value.field) == ("unsupported_parameter", param)


def test_what_asks_for_nothing_is_not() -> None:
    nothing: dict[str, Any] = {
        "n": 1, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"],
        "logprobs": False, "stop": [], "temperature": 2, "max_tokens": 1, "anything": "else", "kdcube": None,
    }  # fmt: skip
    assert ask(("user", "a"), **nothing) == ask(("user", "a"))


def test_the_history_is_bounded_as_a_whole() -> None:
    half = "x" * (LIMITS.max_text_chars // 2)
    assert len(ask(("user", half), ("assistant", half), ("user", "a")).history) == 2
    with pytest.raises(BadRequest) as refused:
        ask(("user", half), ("assistant", half), ("user", "x"), ("user", "a"))
    assert refused.value.error == "context_length_exceeded"


RETRIES = [
    (409, "idempotency_conflict", None, False, "false"),
    (409, "conversation_busy", 2, False, None),
    (503, "outcome_unknown", 2, False, "false"),
    (503, "outcome_unknown", 2, True, None),
    (503, "backpressure", 2, False, None),
    (429, "rate_limit_burst", 2, False, None),
]


@pytest.mark.parametrize(("status", "error", "retry_after_s", "keyed", "told"), RETRIES)
def test_clients_are_kept_from_repeats_that_ask_twice_or_in_vain(
    status: int, error: str, retry_after_s: int | None, keyed: bool, told: str | None
) -> None:
    headers = [(b"idempotency-key", b"k")] if keyed else []
    response = openai_error(Problem(status, error, "", None, retry_after_s), {"type": "http", "headers": headers})
    assert response.headers.get("x-should-retry") == told
    assert response.headers.get("retry-after") == (str(retry_after_s) if retry_after_s else None)

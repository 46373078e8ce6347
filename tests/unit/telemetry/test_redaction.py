from __future__ import annotations

import pytest

from kdcube.telemetry.redaction import redact, redact_field, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        "redis://:hunter2@cache:6379/0",
        "rediss://ann:hun%40ter2@cache",
        "postgresql://ann:hunter2@x@db/kdcube?sslmode=require",
        "Authorization: Bearer hunter2",
        "authorization: basic aHVudGVyMg==",
        f"token {JWT} was refused",
        "GET /sse/stream?stream_id=1&bearer_token=hunter2&id_token=hunter2",
        "password=hunter2, next",
        "OPENAI_API_KEY=hunter2",
    ],
)
def test_credentials_in_text_are_hidden(text):
    redacted = redact_text(text)
    assert "[redacted]" in redacted
    assert not any(secret in redacted for secret in ("hunter2", "hun%40", "aHVud", JWT, "x@db"))


@pytest.mark.parametrize(
    "text", ["redis://cache:6379/0", "mail ann@example.org", "input_tokens 5", "https://host/a@b", "the token expired"]
)
def test_other_text_stays(text):
    assert redact_text(text) == text


@pytest.mark.parametrize("name", ["token", "id_token", "Authorization", "Set-Cookie", "POSTGRES_PASSWORD", "api_key"])
def test_fields_are_hidden_by_name(name):
    assert redact_field(name, "hunter2") == "[redacted]"
    assert redact({"headers": [{name: b"hunter2"}]}) == {"headers": [{name: "[redacted]"}]}


def test_numbers_and_other_names_pass():
    assert redact({"token": None, "max_token": 5, "input_tokens": 7, "tokens": "a"}) == {
        "token": None, "max_token": 5, "input_tokens": 7, "tokens": "a",
    }  # fmt: skip


def test_depth_and_length_are_bounded():
    cyclic: dict[str, object] = {}
    cyclic["again"] = cyclic
    assert "..." in str(redact(cyclic))
    assert len(redact_text("x" * 1_000_000)) == 16_384

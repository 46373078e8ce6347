"""Chat completions, of OpenAI and of whatever speaks like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcube.docs.models.wire import Broken, End, Message, Said, Text, Tokens, count, dig


class OpenAI:
    path = "/chat/completions"

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def body(self, model: str, system: str, messages: Sequence[Message]) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [
                {"role": "system", "content": system},
                *({"role": message.role, "content": message.text} for message in messages),
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def read(self, event: Mapping[str, Any]) -> Iterator[Said]:
        if event.get("error"):
            yield Broken("it reported an error", retryable=True)
            return
        if isinstance(text := dig(event, "choices", 0, "delta", "content"), str) and text:
            yield Text(text)
        reason = dig(event, "choices", 0, "finish_reason")
        if reason == "content_filter":
            yield Broken("its filter stopped it")
        elif isinstance(reason, str):
            yield End(cut=reason == "length")
        if (usage := event.get("usage")) is not None:
            yield Tokens(count(dig(usage, "prompt_tokens")), count(dig(usage, "completion_tokens")))

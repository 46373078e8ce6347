"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcube.docs.models.wire import MAX_ANSWER_TOKENS, Broken, End, Message, Said, Text, Tokens, count, dig


class Anthropic:
    path = "/messages"

    def headers(self, key: str | None) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01", **({} if key is None else {"x-api-key": key})}

    def body(self, model: str, system: str, messages: Sequence[Message]) -> dict[str, Any]:
        return {
            "model": model,
            "max_tokens": MAX_ANSWER_TOKENS,
            "system": system,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "stream": True,
        }

    def read(self, event: Mapping[str, Any]) -> Iterator[Said]:
        match event.get("type"):
            case "message_start":
                yield Tokens(count(dig(event, "message", "usage", "input_tokens")))
            case "content_block_delta":
                if isinstance(text := dig(event, "delta", "text"), str) and text:
                    yield Text(text)
            case "message_delta":
                yield Tokens(output=count(dig(event, "usage", "output_tokens")))
                match dig(event, "delta", "stop_reason"):
                    case "refusal":
                        yield Broken("it declined to answer")
                    case str() as reason:
                        yield End(cut=reason == "max_tokens")
                    case _:
                        pass
            case "error":
                yield Broken("it reported an error", retryable=True)
            case _:
                pass

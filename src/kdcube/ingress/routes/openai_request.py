"""A chat completion's request, understood as a message and what was said before it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kdcube.config.gateway import Limits
from kdcube.gateway.errors import BadRequest
from kdcube.gateway.turns.messages import ClientId, Message
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import EarlierMessage, Policy


class Part(msgspec.Struct):
    """Of a message's content. Only text is understood."""

    type: str
    text: str = ""


class ChatMessage(msgspec.Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Extension(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What only KDCube knows: the member ``kdcube`` of the body."""

    conversation_id: ClientId | None = None
    """Goes on with a conversation: what was said before is what the conversation has."""
    payload: dict[str, Any] | None = None
    policy: Literal["enqueue", "interrupt", "reject"] = "enqueue"
    cancel_on_disconnect: bool = False


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The body of ``POST /v1/chat/completions``. Members that are not here are ignored."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = None
    kdcube: Extension | None = None
    n: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stop: str | list[str] | None = None
    web_search_options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """``history`` is what the message stands after when it begins a conversation."""

    message: Message
    history: Sequence[EarlierMessage]
    cancel_on_disconnect: bool


def understand(body: ChatCompletion, limits: Limits) -> Asked:
    """Raises BadRequest, InvalidInput for what cannot be done; both name the parameter."""
    _refuse_unsupported(body)
    extension = body.kdcube or Extension()
    conversation_id = _conversation(body, extension)
    texts = [_text(number, message) for number, message in enumerate(body.messages)]
    told = list(zip(body.messages, texts, strict=True))
    dialogue = [(message.role, text) for message, text in told if message.role in ("user", "assistant")]
    if not dialogue or dialogue[-1][0] != "user":
        raise InvalidInput("messages", "the last message must be the user's")
    *earlier, (_, question) = dialogue
    payload = dict(extension.payload or {})
    if system := [text for message, text in told if message.role in ("system", "developer") and text]:
        payload["system"] = "\n\n".join(system)
    return Asked(
        Message(
            text=question,
            conversation_id=conversation_id,
            bundle_id=body.model,
            payload=payload,
            policy=Policy(extension.policy),
        ),
        () if conversation_id is not None else _history(earlier, limits),
        extension.cancel_on_disconnect,
    )


def _refuse_unsupported(body: ChatCompletion) -> None:
    """What an answer of a bundle could not keep to."""
    asked = {
        "n": body.n not in (None, 1),
        "tools": bool(body.tools),
        "tool_choice": body.tool_choice not in (None, "none", "auto"),
        "functions": bool(body.functions),
        "function_call": body.function_call not in (None, "none", "auto"),
        "response_format": body.response_format is not None and body.response_format.get("type") != "text",
        "modalities": body.modalities not in (None, ["text"]),
        "audio": body.audio is not None,
        "logprobs": bool(body.logprobs),
        "top_logprobs": bool(body.top_logprobs),
        "stop": bool(body.stop),
        "web_search_options": body.web_search_options is not None,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise _unsupported(name, f"{name} is not supported: the bundle decides how it answers.")


def _unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, error="unsupported_parameter", field=param)


def _conversation(body: ChatCompletion, extension: Extension) -> str | None:
    named = (body.metadata or {}).get("conversation_id")
    if named is None:
        return extension.conversation_id
    if not isinstance(named, str) or extension.conversation_id not in (None, named):
        raise InvalidInput("metadata.conversation_id", "give one conversation_id")
    return named


def _text(number: int, message: ChatMessage) -> str:
    where = f"messages[{number}]"
    if message.role in ("tool", "function") or message.tool_calls or message.function_call:
        raise _unsupported(where, "Tools are not supported: a bundle has its own.")
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text":
                raise _unsupported(
                    f"{where}.content", f"Content of the type {part.type!r} is not supported, only text is."
                )
        text = "".join(part.text for part in message.content)
    else:
        text = message.content or ""
    return text.replace("\0", "\ufffd")


def _history(earlier: Sequence[tuple[str, str]], limits: Limits) -> list[EarlierMessage]:
    """All of it or nothing: what is left out silently would be missed."""
    if sum(len(text) for _, text in earlier) > limits.max_text_chars:
        raise BadRequest(
            f"The messages before the last have more than {limits.max_text_chars} characters together.",
            error="context_length_exceeded",
            field="messages",
        )
    return [EarlierMessage("user" if role == "user" else "assistant", text) for role, text in earlier if text]

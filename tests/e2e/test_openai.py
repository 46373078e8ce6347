"""OpenAI's API, as real clients of it use it, against the whole system."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic_ai import Agent, ModelResponse, TextPart, ThinkingPart
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from tests.e2e.client import PREFIX, Client, Gate
from tests.e2e.conftest import TRIAL, Stack

from kdcube.protocol.ids import new_id

pytestmark = pytest.mark.anyio

TELLER = Path(__file__).parent / "teller"
DOCS = Path(__file__).parents[2] / "docs" / "openai.md"
MODEL, HELD = "teller@1.0.0", "trial@1.0.0"
_PATIENCE_S = 60.0
_POLL_S = 0.02

Opened = Callable[..., AsyncOpenAI]


@pytest.fixture(scope="module")
def models_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("openai"), {})
    stack.up(["--bundle", str(TELLER), "--bundle", str(TRIAL)])
    yield stack
    stack.down()


@pytest.fixture
async def ai(models_stack: Stack) -> AsyncGenerator[Opened]:
    """Opens clients of ``openai``, alice's unless ``api_key`` says otherwise."""
    opened: list[AsyncOpenAI] = []

    def open_(at: int = 0, **options: Any) -> AsyncOpenAI:
        options = {"api_key": "token-alice", "max_retries": 0, **options}
        client = AsyncOpenAI(base_url=models_stack.ingress[at] + PREFIX + "/v1", **options)
        opened.append(client)
        return client

    yield open_
    for client in opened:
        await client.close()


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def held(gate: Gate, **more: Any) -> dict[str, Any]:
    """The body of a turn that says "0 ", then waits for the gate."""
    orders = {"echo": {"deltas": 3}, "trial": {"hold": str(gate)}}
    return {"kdcube": {"payload": orders, **more}}


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(_PATIENCE_S):
        while not (found := await condition()):
            await asyncio.sleep(_POLL_S)
    return found


# --- models


async def test_every_bundle_is_a_model(ai: Opened) -> None:
    client = ai()
    assert {MODEL, HELD} <= {model.id async for model in client.models.list()}
    assert (await client.models.retrieve(MODEL)).owned_by == "kdcube"
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


async def test_with_the_prefix_and_without(models_stack: Stack) -> None:
    for base in (models_stack.ingress[0], models_stack.ingress[1] + PREFIX):
        async with AsyncOpenAI(base_url=base + "/v1", api_key="token-alice") as client:
            answer = await client.chat.completions.create(model=MODEL, messages=user("hello"))
        assert answer.choices[0].message.content == "hello"


# --- answers

RICH = "Run make up [1].\n\nSources:\n\n[1] docs/guide.md (Start)"
"""Of a client that knows nothing of citations."""


def test_an_answer_in_one_piece(models_stack: Stack) -> None:
    with OpenAI(base_url=models_stack.ingress[0] + "/v1", api_key="token-alice") as client:
        answer = client.chat.completions.create(model=MODEL, messages=user("rich"))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", RICH)
    assert choice.message.model_extra == {"reasoning_content": "Let me think."}
    assert choice.finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (110, 24, 134)
    more = answer.model_extra["kdcube"]
    assert answer.id == f"chatcmpl-{more['turn_id']}"
    assert more["citations"] == [
        {"n": 1, "title": "Guide", "uri": "docs/guide.md", "heading": "Start", "quote": "make up"}
    ]
    assert more["followups"] == ["And then?"]
    assert more["steps"] == [{"step": "search", "title": "Searched", "status": "completed"}]


def test_a_stream(models_stack: Stack) -> None:
    with OpenAI(base_url=models_stack.ingress[0] + "/v1", api_key="token-alice") as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=user("rich"), stream=True, stream_options={"include_usage": True}
            )
        )
    first, *_, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == RICH
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "Let me think."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert last.model_extra["kdcube"]["citations"][0]["uri"] == "docs/guide.md"
    assert (usage.choices, usage.usage and usage.usage.total_tokens) == ([], 134)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_chunks_come_while_the_turn_runs(ai: Opened, gate: Gate) -> None:
    stream = await ai().chat.completions.create(
        model=HELD, messages=user("go"), stream=True, extra_body=held(gate)
    )  # fmt: skip
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if text == "0 ":
            gate.open()
    assert text == "0 1 2 "


async def test_without_usage_it_is_zero(ai: Opened) -> None:
    answer = await ai().chat.completions.create(model=MODEL, messages=user("hello"))
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0


# --- what the bundle is given


async def given(client: AsyncOpenAI, messages: list[Any], **body: Any) -> tuple[dict[str, Any], Any]:
    answer = await client.chat.completions.create(model=MODEL, messages=messages, **body)
    return json.loads(answer.choices[0].message.content or ""), answer.model_extra["kdcube"]


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]},
    {"role": "assistant", "content": "A parrot."},
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "given"},
]


async def test_earlier_messages_are_the_bundles_history(ai: Opened) -> None:
    told, _ = await given(ai(), TALK, temperature=0.1, max_tokens=5, user="somebody", seed=1)
    assert told == {
        "history": [["user", "What is it?"], ["assistant", "A parrot."]],
        "payload": {"system": "Be brief.\n\nBe kind."},
    }


async def test_a_conversation_goes_on_where_it_was(ai: Opened, models_stack: Stack) -> None:
    client = ai()
    first, ids = await given(client, TALK)
    goes_on = {"extra_body": {"kdcube": {"conversation_id": ids["conversation_id"]}}}
    second, again = await given(client, user("given"), **goes_on)
    assert again["conversation_id"] == ids["conversation_id"]
    assert second["history"] == [
        ["user", "What is it?"],
        ["assistant", "A parrot."],
        ["user", "given"],
        ["assistant", json.dumps(first)],
    ]
    third, _ = await given(client, TALK, metadata={"conversation_id": ids["conversation_id"]})
    assert len(third["history"]) == 6  # the conversation's own, whatever the messages say


async def test_by_default_each_request_is_a_conversation(ai: Opened) -> None:
    client = ai()
    one, other = [await given(client, user("given")) for _ in range(2)]
    assert one[1]["conversation_id"] != other[1]["conversation_id"]
    assert one[0]["history"] == other[0]["history"] == []


async def test_a_retry_of_the_first_turn_has_the_same_history(ai: Opened, models_stack: Stack, connect: Any) -> None:
    _, ids = await given(ai(), TALK)
    client: Client = connect(models_stack, "token-alice")
    path = f"/conversations/{ids['conversation_id']}/turns/{ids['turn_id']}/retry"
    again = (await client.ask("POST", path)).json()
    await client.ended(again["task_id"])
    stored = await client.stored(ids["conversation_id"])
    assert json.loads(stored[again["task_id"]]["answer"])["history"] == [
        ["user", "What is it?"],
        ["assistant", "A parrot."],
    ]


# --- repeats, disconnects


async def test_the_same_key_is_the_same_turn(ai: Opened, gate: Gate) -> None:
    """At two processes, streaming and not, while it runs and after it."""
    key = new_id()

    async def ask(at: int, text: str = "go", **options: Any) -> Any:
        return await ai(at).chat.completions.create(
            model=HELD, messages=user(text), extra_headers={"Idempotency-Key": key},
            extra_body=held(gate), **options,
        )  # fmt: skip

    stream = await ask(0, stream=True)
    first = await anext(aiter(stream))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ask(1))
        gate.open()
    whole, late = waiting.result(), await ask(0)
    assert {answer.id for answer in (first, whole, late)} == {first.id}
    assert {answer.choices[0].message.content for answer in (whole, late)} == {"0 1 2 "}
    rest = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert rest == "0 1 2 "
    with pytest.raises(openai.ConflictError) as refused:
        await ask(0, "something else")
    assert refused.value.code == "idempotency_conflict"


async def test_a_client_that_gave_up_gets_the_same_turn_by_its_retry(ai: Opened, gate: Gate) -> None:
    """The client times out, and sends again by itself under the key that it was given."""
    retries: list[str] = []

    async def open_at_the_retry(request: httpx.Request) -> None:
        retries.append(request.headers["x-stainless-retry-count"])
        if len(retries) > 1:
            gate.open()

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [open_at_the_retry]})
    client = ai(max_retries=2, timeout=1.0, http_client=http)
    answer = await client.chat.completions.create(
        model=HELD, messages=user("go"), extra_headers={"Idempotency-Key": new_id()}, extra_body=held(gate)
    )
    assert answer.choices[0].message.content == "0 1 2 "
    assert retries[:2] == ["0", "1"]


async def leave(client: AsyncOpenAI, gate: Gate, **more: Any) -> dict[str, Any]:
    """Asks, and leaves after the first text; the ids of the turn."""
    stream = await client.chat.completions.create(
        model=HELD, messages=user("go"), stream=True, extra_body=held(gate, **more)
    )
    first = await anext(aiter(stream))
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    return first.model_extra["kdcube"]


async def test_a_disconnect_changes_nothing(ai: Opened, gate: Gate, models_stack: Stack, connect: Any) -> None:
    ids = await leave(ai(), gate)
    gate.open()
    events = await connect(models_stack, "token-alice").ended(ids["turn_id"])
    assert events[-1].data["data"]["state"] == "completed"


async def test_a_disconnect_cancels_when_it_was_asked_to(
    ai: Opened, gate: Gate, models_stack: Stack, connect: Any
) -> None:
    ids = await leave(ai(), gate, cancel_on_disconnect=True)
    events = await connect(models_stack, "token-alice").ended(ids["turn_id"])
    assert events[-1].data["data"]["state"] == "cancelled"


async def test_so_does_one_that_waits_for_the_whole(ai: Opened, gate: Gate, models_stack: Stack, connect: Any) -> None:
    mine: Client = connect(models_stack)
    asking = asyncio.create_task(
        ai(api_key=mine.token).chat.completions.create(
            model=HELD, messages=user("go"), extra_body=held(gate, cancel_on_disconnect=True)
        )
    )

    async def running() -> Any:
        items = (await mine.ask("GET", "/conversations")).json()["items"]
        return items and await mine.stored(items[0]["conversation_id"])

    (turn_id,) = await until(running)
    asking.cancel()
    await asyncio.wait({asking})
    events = await mine.ended(turn_id)
    assert events[-1].data["data"]["state"] == "cancelled"


# --- beginning anew


async def test_a_turn_that_is_run_again_goes_on_where_its_stream_was(ai: Opened) -> None:
    stream = await ai().chat.completions.create(model=MODEL, messages=user("again"), stream=True)
    told = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in told) == "one two three"
    assert told[-1].finish_reason == "stop"


async def test_one_that_says_something_else_ends_its_stream(ai: Opened) -> None:
    text = ""
    stream = await ai().chat.completions.create(model=MODEL, messages=user("otherwise"), stream=True)
    with pytest.raises(openai.APIError) as failed:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert (text, failed.value.code) == ("one two ", "answer_began_anew")
    whole = await ai().chat.completions.create(model=MODEL, messages=user("otherwise"))
    assert whole.choices[0].message.content == "one, two"


async def test_a_lost_log_doubles_nothing(ai: Opened, gate: Gate, models_stack: Stack) -> None:
    """Valkey is killed while an answer streams: what follows begins with a snapshot."""
    text = ""
    stream = await ai().chat.completions.create(model=HELD, messages=user("go"), stream=True, extra_body=held(gate))
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if text == "0 ":
            await asyncio.to_thread(models_stack.kill, "valkey")
            await asyncio.to_thread(models_stack.wait_back)
            gate.open()
    assert text == "0 1 2 "


# --- errors


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 2}, "unsupported_parameter", "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter", "tools"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
    ({"stop": ["x"]}, "unsupported_parameter", "stop"),
    ({"logprobs": True}, "unsupported_parameter", "logprobs"),
    ({"messages": []}, "invalid_input", "messages"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, "invalid_input", "messages"),
    ({"messages": [{"role": "user", "content": ""}]}, "invalid_input", "messages"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "invalid_input", "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "unsupported_parameter",
        "messages[0].content",
    ),
    (
        {"messages": [{"role": "user", "content": "x" * 100_001}, *user("given")]},
        "context_length_exceeded",
        "messages",
    ),
    ({"extra_body": {"kdcube": {"cancel": True}}}, "invalid_input", "kdcube"),
    ({"extra_body": {"kdcube": {"policy": "steer"}}}, "invalid_input", "kdcube.policy"),
    ({"extra_body": {"kdcube": {"conversation_id": "a b"}}}, "invalid_input", "kdcube.conversation_id"),
    ({"extra_headers": {"Idempotency-Key": "a b"}}, "invalid_input", "Idempotency-Key"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD, ids=[f"{param}-{n}" for n, (_, _, param) in enumerate(BAD)])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_understood_is_refused(
    ai: Opened, body: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await ai().chat.completions.create(**{"model": MODEL, "messages": user("hello"), "stream": stream, **body})
    assert (refused.value.code, refused.value.param, refused.value.type) == (code, param, "invalid_request_error")
    assert refused.value.request_id


async def test_each_refusal_has_its_exception(ai: Opened) -> None:
    async def ask(client: AsyncOpenAI, **body: Any) -> Any:
        return await client.chat.completions.create(**{"model": MODEL, "messages": user("hello"), **body})

    with pytest.raises(openai.AuthenticationError) as refused:
        await ask(ai(api_key="nobody"))
    assert refused.value.code == "invalid_token"
    with pytest.raises(openai.NotFoundError) as refused:
        await ask(ai(), model="gpt-4o")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(ai(), messages=user("x" * 1_100_000))
    assert (refused.value.status_code, refused.value.code) == (413, "too_large")
    with pytest.raises(openai.NotFoundError) as refused:
        await ai().embeddings.create(model=MODEL, input="x")
    assert refused.value.code == "not_found"


async def test_a_busy_conversation_may_refuse(ai: Opened, gate: Gate) -> None:
    client = ai()
    ids = await leave(client, gate)
    with pytest.raises(openai.ConflictError) as refused:
        await client.chat.completions.create(
            model=HELD,
            messages=user("more"),
            extra_body={"kdcube": {"conversation_id": ids["conversation_id"], "policy": "reject"}},
        )
    assert refused.value.code == "conversation_busy"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_fails_is_an_error_and_is_not_sent_again(ai: Opened, stream: bool) -> None:
    asked = 0

    async def count(_: httpx.Request) -> None:
        nonlocal asked
        asked += 1

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]})
    body = {"kdcube": {"payload": {"echo": {"deltas": 2, "fail": "No luck."}}}}
    with pytest.raises(openai.APIError, match=re.escape("No luck.")) as failed:
        answer = await ai(max_retries=3, http_client=http).chat.completions.create(
            model=HELD, messages=user("go"), stream=stream, extra_body=body
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
        assert text == "0 1 ", "the error comes after what was said"
    assert failed.value.code == "trial_failed"
    assert isinstance(failed.value, openai.InternalServerError) is not stream
    assert asked == 1


async def test_a_cancelled_turn_has_no_answer(ai: Opened, gate: Gate, models_stack: Stack, connect: Any) -> None:
    stream = await ai().chat.completions.create(model=HELD, messages=user("go"), stream=True, extra_body=held(gate))
    turn_id = (await anext(aiter(stream))).id.removeprefix("chatcmpl-")
    await connect(models_stack, "token-alice").cancel(turn_id=turn_id)
    with pytest.raises(openai.APIError) as failed:
        async for _ in stream:
            pass
    assert failed.value.code == "cancelled"


async def test_an_anonymous_user(models_stack: Stack, ai: Opened) -> None:
    async with httpx.AsyncClient(base_url=models_stack.ingress[0]) as plain:
        response = await plain.post("/v1/chat/completions", json={"model": MODEL, "messages": user("hello")})
        assert response.json()["choices"][0]["message"]["content"] == "hello"
        assert "kdcube_session" in plain.cookies
    client = ai(api_key="anonymous")
    _, ids = await given(client, user("given"))
    told, _ = await given(client, user("given"), extra_body={"kdcube": {"conversation_id": ids["conversation_id"]}})
    assert len(told["history"]) == 2, "the client keeps the session's cookie: it is the same user"


async def test_limits_say_when_to_come_back(new_stack: Any) -> None:
    rates = {"tenant": "local", "project": "main", "rate_limits": {"registered": {"burst": 1, "burst_window": 3600}}}
    stack = new_stack("--bundle", str(TELLER), GATEWAY_CONFIG_JSON=json.dumps(rates))
    async with AsyncOpenAI(base_url=stack.ingress[0] + "/v1", api_key="token-bob", max_retries=0) as client:
        await client.chat.completions.create(model=MODEL, messages=user("hello"))
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model=MODEL, messages=user("hello"))
    assert refused.value.code == "rate_limit_burst"
    assert int(refused.value.response.headers["retry-after"]) > 0


# --- a framework's client


@pytest.fixture
def agent(ai: Opened) -> Callable[..., Agent[None, str]]:
    """Makes agents whose model is a bundle."""

    def make(model: str = MODEL, **options: Any) -> Agent[None, str]:
        return Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=ai())), **options)

    return make


async def test_pydantic_ai_talks_and_remembers(agent: Any) -> None:
    parrot = agent(instructions="Be brief.")
    first = await parrot.run("hello")
    assert first.output == "hello"
    second = await parrot.run("given", message_history=first.all_messages())
    assert json.loads(second.output) == {
        "history": [["user", "hello"], ["assistant", "hello"]],
        "payload": {"system": "Be brief."},
    }


async def test_pydantic_ai_streams_with_thoughts_and_usage(agent: Any) -> None:
    async with agent().run_stream("rich") as result:
        told = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        usage = result.usage
    assert "".join(told) == RICH
    assert (usage.input_tokens, usage.output_tokens) == (110, 24)
    reply = result.all_messages()[-1]
    assert isinstance(reply, ModelResponse)
    assert [part.content for part in reply.parts if isinstance(part, ThinkingPart)] == ["Let me think."]
    assert [part.content for part in reply.parts if isinstance(part, TextPart)] == [RICH]


async def test_pydantic_ai_reads_the_errors(agent: Any) -> None:
    with pytest.raises(ModelHTTPError) as refused:
        await agent("nobody").run("hello")
    assert refused.value.status_code == 404
    assert "model_not_found" in str(refused.value.body)


# --- the documentation


def test_the_snippets_of_the_documentation_run(models_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    code = "\n".join(snippets)
    for told, ours in (("http://127.0.0.1:8010", models_stack.ingress[0]), ("YOUR-TOKEN", "token-alice")):
        assert told in code
        code = code.replace(told, ours)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), names)
    names["client"].close()
    out = capsys.readouterr().out
    answer = names["answer"]
    assert out.startswith(answer.choices[0].message.content)
    assert f"{answer.kdcube['citations'][0]['n']} {answer.kdcube['citations'][0]['uri']}" in out

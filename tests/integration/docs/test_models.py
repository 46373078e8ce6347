"""Answers that a model writes, and what happens when it fails."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import pytest
from tests.integration.docs.model_server import (
    KEY,
    USAGE,
    ModelServer,
    model_server,
    raw,
    refuses,
    says,
    says_and_waits,
)

from kdcube.docs.bundle import bundle
from kdcube.sdk.testing import run

pytestmark = pytest.mark.anyio

QUESTION = "How do I descale the coffee machine?"
QUICK = {"connect_s": 5, "silence_s": 0.2, "answer_s": 30, "repeat_s": 0.01}
"""A silence that a test can wait for."""


@pytest.fixture
async def server() -> AsyncGenerator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def secrets(server: ModelServer, provider: str) -> dict[str, str]:
    return {
        "KDCUBE_LLM_PROVIDER": provider,
        "KDCUBE_LLM_BASE_URL": server.url,
        "KDCUBE_LLM_MODEL": "model-1",
        "KDCUBE_LLM_API_KEY": KEY,
    }


def step(result, name: str) -> dict:
    """The last state of a step."""
    return [step for step in result.steps if step["step"] == name][-1]


async def test_the_model_writes_over_what_was_found(ask, server, provider, secrets):
    server.answers = [says(provider, "Use citric", " acid [", "1]", ", and rinse", " twice [1, 9].")]
    result = await ask(QUESTION, secrets=secrets)
    assert result.answer == "Use citric acid [1], and rinse twice [1]."
    assert [(cite["n"], cite["uri"]) for cite in result.citations] == [(1, "manuals/coffee-machine.pdf#page=2")]
    assert result.usage == [{"model": "model-1", "input_tokens": USAGE[0], "output_tokens": USAGE[1]}]
    assert step(result, "model")["status"] == "completed"
    (request,) = server.requests
    assert request.body["model"] == "model-1"
    assert request.body["stream"] is True
    assert "citric acid" in json.dumps(request.body)
    if provider == "anthropic":
        assert request.path == "/v1/messages"
        assert request.headers["x-api-key"] == KEY
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert request.body["messages"][-1] == {"role": "user", "content": QUESTION}
    else:
        assert request.path == "/v1/chat/completions"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert [message["role"] for message in request.body["messages"]] == ["system", "user"]


async def test_the_model_gets_the_history_in_turns(ask, server, provider, secrets):
    server.answers = [says(provider, "Every three months.")]
    history = [("assistant", "Welcome"), ("user", QUESTION), ("user", "Quick!"), ("assistant", "Use acid.")]
    await ask("And how often?", secrets=secrets, history=history)
    messages = [message for message in server.requests[0].body["messages"] if message["role"] != "system"]
    assert messages == [
        {"role": "user", "content": f"{QUESTION}\n\nQuick!"},
        {"role": "assistant", "content": "Use acid."},
        {"role": "user", "content": "And how often?"},
    ]


async def test_without_a_key_a_local_model_is_asked(ask, server, provider, secrets):
    del secrets["KDCUBE_LLM_API_KEY"]
    server.answers = [says(provider, "Fine.")]
    assert (await ask(QUESTION, secrets=secrets)).answer == "Fine."
    assert not {"authorization", "x-api-key"} & server.requests[0].headers.keys()


async def test_citations_are_numbered_by_their_first_use(ask, server, provider, secrets):
    server.answers = [says(provider, "B [2]. A [1]. B again [2]. `list[1]`\n```\nx[2]\n```")]
    result = await ask("coffee machine error codes and descaling", secrets=secrets)
    assert result.answer.startswith("B [1]. A [2]. B again [1]. `list[1]`\n```\nx[2]\n```")
    assert [cite["n"] for cite in result.citations] == [1, 2]


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_what_passes_is_asked_again(ask, server, provider, secrets, status):
    server.answers = [refuses(status, "Retry-After: 0\r\n"), says(provider, "There.")]
    result = await ask(QUESTION, secrets=secrets)
    assert result.answer == "There."
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "asked", "told"),
    [
        (refuses(401), 1, "it did not accept the key (HTTP 401)"),
        (refuses(404), 1, "there is no such model or address (HTTP 404)"),
        (refuses(302, "Location: http://127.0.0.1:1/\r\n"), 1, "it did not accept the request (HTTP 302)"),
        (refuses(429, "Retry-After: 3600\r\n"), 1, "its rate limit or quota is used up (HTTP 429)"),
        (refuses(500), 3, "it has a problem (HTTP 500)"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\ndata: {\n\n"), 3, "it sent what is no event"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n"), 3, "its answer broke off"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"x" * 1_100_000 + b"\n\n"), 1, "it sent an event that is too long"),
        (raw(b"what?\r\n\r\n"), 3, "the connection to it failed"),
        (raw(b""), 3, "the connection to it failed"),
    ],
)  # fmt: skip
async def test_a_model_that_gives_no_answer(ask, server, provider, secrets, capfd, answer, asked, told):
    server.answers = [answer]
    result = await ask(QUESTION, secrets=secrets)
    assert result.outcome == "completed"
    assert result.answer.startswith(f"*The language model gave no answer: {told}. The documents themselves say:*\n\n")
    assert "citric acid" in result.answer
    assert result.citations[0]["uri"] == "manuals/coffee-machine.pdf#page=2"
    assert step(result, "model")["status"] == "error"
    assert told in step(result, "model")["markdown"]
    assert len(server.requests) == asked
    printed = capfd.readouterr()
    assert told in printed.out
    assert KEY not in f"{result}{printed}"


async def test_a_model_that_is_silent(ask, server, provider, secrets, corpus_config):
    server.answers = [says_and_waits(provider)]
    result = await ask(QUESTION, {**corpus_config, "model_times": QUICK}, secrets=secrets)
    assert "gave no answer: it did not answer in time" in result.answer
    assert "citric acid" in result.answer
    assert len(server.requests) == 3


async def test_a_model_that_takes_too_long_in_all(ask, server, provider, secrets, corpus_config):
    server.answers = [says_and_waits(provider, "Well")]
    times = {"connect_s": 5, "silence_s": 30, "answer_s": 0.3}
    result = await ask(QUESTION, {**corpus_config, "model_times": times}, secrets=secrets)
    assert result.answer.startswith("Well\n\n---\n\n*The language model's answer breaks off here: it took longer than")
    assert len(server.requests) == 1


async def test_an_answer_that_breaks_off(ask, server, provider, secrets):
    server.answers = [says(provider, "Pour in", " acid [1]", " and", ended=False)]
    result = await ask(QUESTION, secrets=secrets)
    assert result.answer.startswith(
        "Pour in acid [1] and\n\n---\n\n"
        "*The language model's answer breaks off here: its answer broke off. The documents themselves say:*\n\n"
    )
    assert "citric acid" in result.answer
    assert [cite["n"] for cite in result.citations] == [1], "the same place keeps its number"
    assert len(server.requests) == 1, "what has been heard is not asked for again"


async def test_an_answer_that_is_too_long_says_so(ask, server, provider, secrets):
    reason = "max_tokens" if provider == "anthropic" else "length"
    server.answers = [says(provider, "So", reason=reason)]
    assert (await ask(QUESTION, secrets=secrets)).answer == "So\n\n*(The model's answer was too long, and ends here.)*"


async def test_a_model_that_declines(ask, server, provider, secrets):
    reason = "refusal" if provider == "anthropic" else "content_filter"
    server.answers = [says(provider, reason=reason)]
    result = await ask(QUESTION, secrets=secrets)
    assert result.answer.startswith("*The language model gave no answer: it")
    assert "citric acid" in result.answer


async def test_an_error_within_the_stream(ask, server, provider, secrets):
    event = b'data: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
    server.answers = [raw(b"HTTP/1.1 200 OK\r\n\r\n" + event), says(provider, "Now.")]
    assert (await ask(QUESTION, secrets=secrets)).answer == "Now."


async def test_a_cancel_closes_the_connection(corpus_config, server, provider, secrets):
    server.answers = [says_and_waits(provider, "Well, ")]
    async with run(bundle, QUESTION, config=corpus_config, secrets=secrets) as session:
        await session.until(lambda: session.answer)
        session.cancel()
        result = await session.result()
        await server.left.wait()
    assert result.outcome == "cancelled"
    assert result.answer == "Well,"


async def test_a_server_that_is_not_there(ask, provider, secrets):
    secrets["KDCUBE_LLM_BASE_URL"] = "http://127.0.0.1:1/v1"
    result = await ask(QUESTION, secrets=secrets)
    assert "gave no answer: the connection to it failed" in result.answer


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"KDCUBE_LLM_PROVIDER": "hal"}, "KDCUBE_LLM_PROVIDER is 'hal'; give openai or anthropic"),
        ({"KDCUBE_LLM_MODEL": ""}, "KDCUBE_LLM_MODEL is not granted; name the model"),
        ({"KDCUBE_LLM_BASE_URL": "", "KDCUBE_LLM_API_KEY": ""}, "KDCUBE_LLM_API_KEY is not granted"),
        ({"KDCUBE_LLM_API_KEY": "schlüssel"}, "KDCUBE_LLM_API_KEY holds characters that no key has"),
        ({"KDCUBE_LLM_BASE_URL": "ftp://x"}, "KDCUBE_LLM_BASE_URL is no http or https URL"),
        ({"KDCUBE_LLM_BASE_URL": "http://[x"}, "KDCUBE_LLM_BASE_URL is no http or https URL"),
    ],
)
async def test_a_grant_that_is_no_model_is_told(ask, server, secrets, changes, told):
    result = await ask(QUESTION, secrets=secrets | changes)
    assert told in step(result, "model")["markdown"]
    assert "citric acid" in result.answer
    assert server.requests == []


async def test_the_folder_has_no_answer_and_the_model_fails(ask, server, provider, secrets):
    server.answers = [refuses(401)]
    result = await ask("Which error has the descaling of a zeppelin?", secrets=secrets)
    assert "gave no answer" in result.answer
    assert "I find no answer to that" in result.answer

"""/v1: what the whole system cannot be made to do, on an ingress in this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio


def body(text: str = "hello", **members: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **members}


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error, in OpenAI's shape."""
    told = response.json()
    assert response.status_code == status, told
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"message", "type", "param", "code"}
    assert told["error"]["code"] == code
    assert response.headers["x-request-id"]
    return told["error"]


@asynccontextmanager
async def working(worker: Any) -> AsyncGenerator[None]:
    """Every turn that comes is run."""

    async def work() -> None:
        while True:
            claim = await worker.start()
            if claim is None:
                await asyncio.sleep(0.01)
            else:
                await worker.end(claim)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_an_answer(bench: Any) -> None:
    alice = await bench.client("alice-token")
    async with working(bench.worker):
        answer = await alice.post("/v1/chat/completions", json=body())
        stream = await alice.post("/chatbot/api/v1/chat/completions", json=body(stream=True))
    assert answer.json()["choices"][0]["message"]["content"] == "done"
    assert answer.headers["content-type"] == "application/json"
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.text.endswith("data: [DONE]\n\n")


async def test_models_are_those_that_the_caller_may_use(bench: Any) -> None:
    for token, expected in (("alice-token", ["echo", "other", "members"]), (None, ["echo", "other"])):
        client = await bench.client(token)
        listed = (await client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == expected
        assert (await client.get("/v1/models/members")).status_code == (404 if token is None else 200)


async def test_refusals_are_in_openais_shape(bench: Any) -> None:
    alice, stranger = await bench.client("alice-token"), await bench.client()
    assert refused(await alice.post("/v1/chat/completions", content=b"{"), 400, "malformed_json")["param"] == "body"
    told = refused(await stranger.post("/v1/chat/completions", json=body(model="members")), 403, "bundle_not_allowed")
    assert (told["type"], told["param"]) == ("permission_error", "model")
    refused(await alice.get("/v1/chat/completions"), 405, "method_not_allowed")
    refused(await alice.get("/chatbot/api/v1/nothing"), 404, "not_found")
    client = await bench.client("nobody")
    response = await client.post("/v1/chat/completions", json=body())
    assert refused(response, 401, "invalid_token")["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"
    assert await bench.turns.unfinished() == []


async def test_the_key_anonymous_is_nobodys(bench: Any) -> None:
    client = await bench.client("anonymous")
    assert (await client.get("/v1/models")).status_code == 200
    assert "kdcube_session" in client.cookies
    refused(await (await bench.client("")).get("/v1/models"), 401, "invalid_token")


async def test_where_nobody_is_anonymous_the_key_is_refused(bench_with: Any) -> None:
    bench = await bench_with(KDCUBE_ANONYMOUS="0")
    client = await bench.client("anonymous")
    refused(await client.get("/v1/models"), 401, "unauthorized")


async def test_a_drain_says_so_and_the_turn_goes_on(bench: Any) -> None:
    alice = await bench.client("alice-token")
    keyed = {"headers": {"Idempotency-Key": "k-1"}}
    whole = asyncio.create_task(alice.post("/v1/chat/completions", json=body("whole")))
    again = asyncio.create_task(alice.post("/v1/chat/completions", json=body("again"), **keyed))
    stream = asyncio.create_task(alice.post("/v1/chat/completions", json=body("stream", stream=True)))
    for _ in range(3):
        while await bench.worker.start() is None:
            await asyncio.sleep(0.01)
    while bench.ingress._streams.count < 3:
        await asyncio.sleep(0.01)
    await bench.ingress.drain()
    refused(await whole, 503, "server_shutdown")
    assert (await whole).headers["x-should-retry"] == "false"
    refused(await again, 503, "server_shutdown")
    assert "x-should-retry" not in (await again).headers
    assert (await again).headers["retry-after"] == "1"
    assert '"code":"server_shutdown"' in (await stream).text.rstrip().splitlines()[-1]
    refused(await alice.post("/v1/chat/completions", json=body("late")), 503, "draining")
    assert sorted(turn.turn.message for turn in await bench.turns.unfinished()) == ["again", "stream", "whole"]


@pytest.mark.timeout(300)
async def test_generated_requests_find_nothing_that_the_document_does_not_say(process: Any, tmp_path: Path) -> None:
    run = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{process.url}/openapi.json"),
        *("--url", process.url, "--header", "Authorization: Bearer root-token", "--include-path-regex", "^/v1/"),
        # That the last message must be the user's, no schema can say.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--workers", "1"),
        *("--generation-database", "none", "--no-color"),
    ]
    async with working(process.worker):
        done = await asyncio.to_thread(subprocess.run, run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + process.log.read_text()[-2000:]

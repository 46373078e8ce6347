"""What the identity provider says is read within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest

from kdcube.breaker import Breaker
from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.documents import MAX_BYTES, Documents

pytestmark = pytest.mark.anyio

DECODER = msgspec.json.Decoder(dict[str, int])


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65_536


async def silent(request: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError


def answer(*args: Any, **kwargs: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(*args, **kwargs)


async def read(handler: Any, url: str = "https://id.test/x", breaker: Breaker | None = None) -> dict[str, int]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        return await Documents(http, breaker or Breaker("identity_provider"), timeout_s=0.2).read(url, DECODER)


async def test_a_document_is_read() -> None:
    assert await read(answer(200, json={"a": 1})) == {"a": 1}
    assert await read(answer(200, json={"a": 1}), "http://127.0.0.1:1/x") == {"a": 1}


@pytest.mark.parametrize(
    "handler",
    [
        answer(302, headers={"Location": "https://evil.test/"}),
        answer(500),
        answer(200, text="<html>"),
        answer(200, json=["a"]),
        answer(200, content=b'{"a": "\xff"}'),
        answer(200, content=b" " * (MAX_BYTES + 1)),
        answer(200, content=endless()),
        answer(200, content=b'{"a":' * 5_000),
        silent,
    ],
)
async def test_what_is_wrong_is_not_believed(handler: Any) -> None:
    with pytest.raises(Unavailable) as refused:
        await read(handler)
    assert refused.value.error == "identity_provider_unavailable"
    assert "id.test" not in str(refused.value)


async def test_only_protected_addresses_are_asked() -> None:
    for url in ("http://id.test/x", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(Unavailable):
            await read(answer(200, json={"a": 1}), url)


async def test_after_failures_nothing_is_asked_for_a_while() -> None:
    breaker, asked = Breaker("identity_provider", failures=2, rest_s=60), []

    def broken(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(500)

    for _ in range(5):
        with pytest.raises(Unavailable):
            await read(broken, breaker=breaker)
    assert len(asked) == 2

"""Asks a model, and repeats what may be repeated: nothing of which a word has been heard."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar, cast

import httpx

from kdcube.docs.models.anthropic import Anthropic
from kdcube.docs.models.openai import OpenAI
from kdcube.docs.models.settings import ModelSettings
from kdcube.docs.models.wire import Broken, Dialect, End, Message, Text, Tokens
from kdcube.docs.settings import ModelTimes

MAX_ATTEMPTS = 3
MAX_WAIT_S = 10.0
"""A server that asks for a longer one is not asked again."""
MAX_EVENT_CHARS = 1_000_000
_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MEANINGS = {
    400: "it did not accept the request",
    401: "it did not accept the key",
    403: "the key may not use it",
    404: "there is no such model or address",
    429: "its rate limit or quota is used up",
    529: "it is overloaded",
}


T = TypeVar("T")


class ModelFailed(Exception):
    """The model gave no answer, or not all of it; the message says why, for the user, and holds no secret."""

    def __init__(self, reason: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class Model:
    """One model. Made by ``open_model``."""

    def __init__(self, client: httpx.AsyncClient, settings: ModelSettings, times: ModelTimes) -> None:
        self._client = client
        self._settings = settings
        self._times = times
        self._dialect: Dialect = Anthropic() if settings.provider == "anthropic" else OpenAI()
        self.name = settings.model

    async def answer(self, system: str, messages: Sequence[Message]) -> AsyncGenerator[Text | Tokens | End]:
        """The answer as it comes, with ``End`` when it is complete. Raises ModelFailed, before the answer or within.

        What fails before its first word is tried again, three times in all, as long as the time of an answer allows.
        """
        deadline = asyncio.get_running_loop().time() + self._times.answer_s
        for attempt in range(1, MAX_ATTEMPTS + 1):
            heard = False
            try:
                async with aclosing(self._attempt(system, messages)) as attempted:
                    while (said := await self._before(deadline, anext(attempted, None))) is not None:
                        heard = heard or isinstance(said, Text)
                        yield said
                return
            except ModelFailed as error:
                wait_s = error.retry_after_s or self._times.repeat_s * 2 ** (attempt - 1) * random.uniform(1, 2)  # noqa: S311
                if heard or not error.retryable or attempt == MAX_ATTEMPTS or wait_s > MAX_WAIT_S:
                    raise
            await self._before(deadline, asyncio.sleep(wait_s))

    async def _before(self, deadline: float, awaited: Awaitable[T]) -> T:
        """Waits for one thing. The time of the answer bounds what is waited for here, never what its reader does."""
        try:
            async with asyncio.timeout_at(deadline):
                return await awaited
        except TimeoutError:
            raise ModelFailed(f"it took longer than {self._times.answer_s:g} s") from None

    async def _attempt(self, system: str, messages: Sequence[Message]) -> AsyncGenerator[Text | Tokens | End]:
        settings, dialect = self._settings, self._dialect
        request = self._client.build_request(
            "POST",
            settings.base_url + dialect.path,
            json=dialect.body(settings.model, system, messages),
            headers={**dialect.headers(settings.key), "Accept": "text/event-stream"},
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                _check(response)
                ended = False
                async for event in _events(response):
                    for said in dialect.read(event):
                        if isinstance(said, Broken):
                            raise ModelFailed(said.reason, retryable=said.retryable)
                        ended = ended or isinstance(said, End)
                        yield said
                if not ended:
                    raise ModelFailed("its answer broke off", retryable=True)
            finally:
                await response.aclose()
        except httpx.TimeoutException:
            raise ModelFailed("it did not answer in time", retryable=True) from None
        except (httpx.TransportError, httpx.StreamError):
            raise ModelFailed("the connection to it failed", retryable=True) from None
        except httpx.InvalidURL:
            raise ModelFailed("its address is no URL") from None


@asynccontextmanager
async def open_model(settings: ModelSettings, times: ModelTimes) -> AsyncGenerator[Model]:
    """A connection of its own for each answer; it is closed with the block."""
    timeout = httpx.Timeout(times.silence_s, connect=times.connect_s)
    # No proxy and no credentials from files or variables: what the host was granted is all that it uses.
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client:
        yield Model(client, settings, times)


def _check(response: httpx.Response) -> None:
    """The body of an error is not shown: some servers repeat the key in it."""
    status = response.status_code
    if status == 200:
        return
    meaning = _MEANINGS.get(status, "it has a problem" if status >= 500 else "it did not accept the request")
    retry_after = response.headers.get("Retry-After", "")
    raise ModelFailed(
        f"{meaning} (HTTP {status})",
        retryable=status in _RETRYABLE,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of server-sent events."""
    data: list[str] = []
    size = 0
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            size += len(line)
            if size > MAX_EVENT_CHARS:
                raise ModelFailed("it sent an event that is too long")
        elif not line and data:
            text, data, size = "\n".join(data), [], 0
            if text.strip() == "[DONE]":
                return
            try:
                event = json.loads(text)
            except ValueError:
                raise ModelFailed("it sent what is no event", retryable=True) from None
            if isinstance(event, dict):
                yield cast("dict[str, Any]", event)

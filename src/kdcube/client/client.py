"""The HTTP API, for one user of one installation."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from kdcube.client.address import PREFIX, base_url, is_local
from kdcube.client.answers import Accepted, Conversation, Page, Problem, Profile
from kdcube.client.backoff import Backoff
from kdcube.client.errors import ClientError, Refused, Unreachable
from kdcube.client.events import Event, read_event
from kdcube.client.sse import EventParser
from kdcube.protocol.ids import new_id

_CONNECT_S = 10.0
_ANSWER_S = 30.0
_SILENCE_S = 60.0
"""A stream that does not even send a keep-alive comment (every 15 s) for so long is dead."""
_PATIENCE_S = 120.0
_NOBODY = "All connection attempts failed"

T = TypeVar("T")


class Client:
    """An async context manager. Everything raises Refused or Unreachable.

    ``url`` names the installation, with or without ``/chatbot/api``. ``token`` signs in; without one the caller is
    anonymous, and ``session_id`` (of an earlier ``sign_in``) makes them the same user again. What passes by itself (a
    lost connection, a process or store that is being brought back) is tried again for ``patience_s``; ``on_retry`` is
    told the reason and the pause in seconds each time. ``trust``: who vouches for the installation's certificate; by
    default the authorities of the system.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        session_id: str | None = None,
        patience_s: float = _PATIENCE_S,
        on_retry: Callable[[str, float], None] = lambda reason, pause_s: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.url = base_url(url)
        self.origin = self.url.removesuffix(PREFIX)
        """The installation, as people call it."""
        self.session_id = session_id
        self._token = token
        self._patience_s = patience_s
        self._on_retry = on_retry
        self._pause = pause
        self._clock = clock
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=not is_local(self.url),
            transport=transport,
            verify=True if trust is None else trust,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # --- who

    async def sign_in(self) -> Profile:
        """Who the caller is. An anonymous caller gets a session here. Fails at once when nobody answers."""
        profile = await self.ask(Profile, "GET", "/profile", patience_s=0)
        if self._token is None:
            self.session_id = profile.session_id
        return profile

    # --- turns

    async def send(
        self,
        text: str,
        *,
        conversation_id: str | None = None,
        bundle_id: str | None = None,
        policy: str | None = None,
        payload: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> Accepted:
        """Sends a message once, however often it has to be repeated: ``key`` (random by default) names it.

        Without ``conversation_id`` it opens a conversation. ``policy`` says what it does to one that is busy.
        """
        members = {
            "text": text,
            "conversation_id": conversation_id,
            "bundle_id": bundle_id,
            "policy": policy,
            "payload": payload,
        }
        message = {name: value for name, value in members.items() if value is not None}
        return await self.ask(Accepted, "POST", "/sse/chat", body={"message": message}, key=key or new_id())

    async def retry(self, conversation_id: str, turn_id: str) -> Accepted:
        """Asks the message of a turn that has ended again: a sibling of it."""
        return await self.ask(Accepted, "POST", f"/conversations/{conversation_id}/turns/{turn_id}/retry", key=new_id())

    async def cancel(self, turn_id: str) -> bool:
        """False when the turn had already ended."""
        answer = await self.ask(dict[str, str], "POST", "/sse/cancel", body={"turn_id": turn_id})
        return answer["status"] == "cancelling"

    async def follow(self, turn_id: str, *, cursor: str | None = None) -> AsyncGenerator[Event]:
        """Everything that the turn says behind ``cursor``, to its end, each event once.

        A connection that is lost is opened again where it was cut. The patience counts from the last sign of life.
        """
        backoff = Backoff()
        heard_at = self._clock()
        while True:
            parser = EventParser()
            try:
                async with aclosing(self._stream(f"/turns/{turn_id}/stream", cursor)) as chunks:
                    async for chunk in chunks:
                        heard_at = self._clock()
                        for source in parser.feed(chunk):
                            backoff.reset()
                            event = read_event(source)
                            cursor = event.id or cursor
                            yield event
                            if event.ends_turn:
                                return
                failure: ClientError = Unreachable(self.origin, "the connection was closed")
            except Refused as refused:
                if not refused.passing:
                    raise
                failure = refused
            except Unreachable as unreachable:
                failure = unreachable
            except msgspec.DecodeError as error:
                raise ClientError(f"{self.origin} sent an event that is no JSON: {error}") from error
            if parser.retry_ms is not None:
                backoff.first_s = parser.retry_ms / 1000
            await self._wait(failure, backoff, heard_at + self._patience_s)

    async def _stream(self, path: str, cursor: str | None) -> AsyncGenerator[bytes]:
        headers = {**self._headers(), "Accept": "text/event-stream"}
        if cursor is not None:
            headers["Last-Event-ID"] = cursor
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        try:
            async with self._http.stream("GET", self.url + path, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response)
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    # --- conversations

    async def conversations(self, *, search: str | None = None, cursor: str | None = None, limit: int = 20) -> Page:
        """The caller's conversations, a page at a time."""
        query = {"limit": str(limit), "q": search, "cursor": cursor}
        return await self.ask(
            Page, "GET", "/conversations", query={name: value for name, value in query.items() if value}
        )

    async def conversation(self, conversation_id: str) -> Conversation:
        return await self.ask(Conversation, "GET", f"/conversations/{conversation_id}")

    # --- requests

    async def ask(
        self,
        type_: type[T],
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        match: int | None = None,
        patience_s: float | None = None,
    ) -> T:
        """One request, repeated while that may help. What must not be asked twice has a ``key``, or no patience.

        ``match`` goes with it as If-Match.
        """
        headers = self._headers() | ({} if match is None else {"If-Match": f'"{match}"'})
        headers |= {} if key is None else {"Idempotency-Key": key}
        backoff = Backoff()
        until = self._clock() + (self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                response = await self._http.request(method, self.url + path, params=query, json=body, headers=headers)
                if not response.is_success:
                    raise _refusal(response)
                return msgspec.json.decode(response.content, type=type_)
            except httpx.TransportError as error:
                failure: ClientError = self._unreachable(error)
            except Refused as refused:
                if not refused.passing:
                    raise
                failure = refused
            except msgspec.DecodeError as error:
                raise ClientError(f"{self.url}{path} does not answer as KDCube does: {error}") from error
            await self._wait(failure, backoff, until)

    def _headers(self) -> dict[str, str]:
        if self._token is not None:
            return {"Authorization": f"Bearer {self._token}"}
        return {} if self.session_id is None else {"User-Session-ID": self.session_id}

    async def _wait(self, failure: ClientError, backoff: Backoff, until: float) -> None:
        """Waits until it is worth trying again. Raises ``failure`` when that is later than ``until``."""
        asked_s = failure.retry_after_s if isinstance(failure, Refused) else None
        pause_s = backoff.next_s(asked_s or 0.0)
        if self._clock() + pause_s > until:
            raise failure
        self._on_retry(str(failure), pause_s)
        await self._pause(pause_s)

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        match error:
            case httpx.ConnectError() if _NOBODY in str(error):
                return Unreachable(self.origin, "nothing listens there", nobody=True)
            case httpx.TimeoutException():
                return Unreachable(self.origin, "no answer in time")
            case _:
                return Unreachable(self.origin, str(error) or "the connection was lost")


def _refusal(response: httpx.Response) -> Refused:
    status = response.status_code
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:  # a proxy's page, or another service
        return Refused(
            status, f"{response.url.copy_with(query=None)} answers {status} {response.reason_phrase}".strip()
        )
    return Refused(
        status,
        problem.message,
        error=problem.error,
        field=problem.field,
        retry_after_s=problem.retry_after_s,
        request_id=problem.request_id,
    )

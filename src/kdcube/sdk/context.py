"""What an operation knows of its call, and what it may ask for in the name of its caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk.secrets import read_secret
from kdcube.sdk.wire import AcceptedTurn, Conversation, User

Policy = Literal["enqueue", "steer", "interrupt", "reject"]


class BundleError(Exception):
    """A failure that the user should hear of in the bundle's own words.

    ``code`` is a short name for programs (``quota_exceeded``); ``user_message`` is shown to the user. ``retryable``
    tells that another attempt may succeed; it counts only where the bundle declares ``max_attempts`` above 1.
    """

    def __init__(self, code: str, user_message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {user_message}")
        self.code = code
        self.user_message = user_message
        self.retryable = retryable


class Refused(BundleError):
    """What an operation asked for in the name of its caller is refused, as it would be refused to the caller.

    Let it pass and the caller gets the very answer that the refusal is, with its status. ``retry_after_s`` says when to
    ask again, where that helps.
    """

    def __init__(
        self,
        code: str,
        user_message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        request: int = 0,
    ) -> None:
        super().__init__(code, user_message)
        self.field = field
        self.retry_after_s = retry_after_s
        self.request = request


class Asks(Protocol):
    """Carries what an operation asks for to who may answer it."""

    async def conversation(self, conversation_id: str) -> Conversation | None: ...

    async def start_turn(
        self,
        text: str,
        conversation_id: str | None,
        payload: Mapping[str, Any],
        idempotency_key: str | None,
        policy: str | None,
    ) -> AcceptedTurn: ...


@dataclass(frozen=True, slots=True)
class OperationContext:
    """Who calls an operation, and what it may use. Its methods belong to the loop that runs the handler."""

    user: User
    """Of a public operation that somebody calls without signing in: nobody, whose ``id`` is empty."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The ``config`` of the bundle's registry entry."""
    _secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    _unreadable: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    request_id: str = ""
    """Of the request, as it stands in logs and in the answer."""
    _asks: Asks | None = field(default=None, repr=False)
    trace: TraceContext = field(default_factory=TraceContext.new)
    """The trace that the call belongs to. ``trace.headers`` go with requests to other systems."""

    def secret(self, name: str) -> str:
        """A secret that the registry grants to this bundle. Raises SecretNotGranted, SecretUnavailable."""
        return read_secret(self._secrets, self._unreadable, name)

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """A conversation of the caller, by its id; None when the caller has no such conversation. Raises Refused."""
        return await self._answering().conversation(conversation_id)

    async def start_turn(
        self,
        text: str,
        *,
        conversation_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        policy: Policy | None = None,
    ) -> AcceptedTurn:
        """Sends a message to this bundle as the caller would: in their name, in a conversation of theirs (a new one
        without ``conversation_id``), within their limits. Returns when the turn is accepted for good.

        With an ``idempotency_key`` the same message may be sent again and is one turn. Raises Refused.
        """
        return await self._answering().start_turn(text, conversation_id, payload or {}, idempotency_key, policy)

    def _answering(self) -> Asks:
        if self._asks is None:
            raise RuntimeError("this context belongs to no call: there is nobody to ask")
        return self._asks

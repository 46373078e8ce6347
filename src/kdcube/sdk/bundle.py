"""A bundle: its id and the handlers that it registers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_bundle_id
from kdcube.sdk.secrets import read_secret
from kdcube.sdk.turn import Turn
from kdcube.sdk.wire import User


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


@dataclass(frozen=True, slots=True)
class OperationContext:
    """Who calls an operation, and what it may use."""

    user: User
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    _unreadable: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def secret(self, name: str) -> str:
        """A secret that the registry grants to this bundle. Raises SecretNotGranted, SecretUnavailable."""
        return read_secret(self._secrets, self._unreadable, name)


MessageHandler = Callable[[Turn], Awaitable[str | None]]
OperationHandler = Callable[[OperationContext, Any], Awaitable[Any]]

MessageHandlerT = TypeVar("MessageHandlerT", bound=MessageHandler)
OperationHandlerT = TypeVar("OperationHandlerT", bound=OperationHandler)


class Bundle:
    """The one object that a bundle's module defines, by the name ``bundle``.

    ``id`` is a name with a version, such as ``support@1.2.0``. ``max_attempts`` above 1 allows that a turn which was
    interrupted after it began is run again: say so only when running twice does no harm.
    """

    def __init__(self, id: str, *, max_attempts: int = 1) -> None:
        try:
            self.id = check_bundle_id("id", id)
        except InvalidInput as error:
            raise ValueError(f"Bundle({id!r}): {error.message}") from None
        if max_attempts < 1:
            raise ValueError(f"Bundle({id!r}): max_attempts must be 1 or more")
        self.max_attempts = max_attempts
        self.message_handler: MessageHandler | None = None
        self.operations: dict[str, OperationHandler] = {}

    def on_message(self, handler: MessageHandlerT) -> MessageHandlerT:
        """Registers the one handler of messages: ``async def answer(turn: Turn) -> None``.

        It answers with ``await turn.delta(...)``; a string that it returns is the answer if it sent none.
        """
        _check_handler("on_message", handler, ("turn",))
        if self.message_handler is not None:
            raise ValueError("the bundle has a message handler already: one handler takes all messages, keep one")
        self.message_handler = handler
        return handler

    def operation(self, name: str) -> Callable[[OperationHandlerT], OperationHandlerT]:
        """Registers an operation: ``async def summarize(ctx: OperationContext, data) -> JSON``."""
        if not name or not name.replace("_", "a").replace("-", "a").isalnum():
            raise ValueError(f"operation({name!r}): the name must be letters, digits, - and _")
        if name in self.operations:
            raise ValueError(f"operation({name!r}) is registered already: give the other one another name")

        def register(handler: OperationHandlerT) -> OperationHandlerT:
            _check_handler(f"operation({name!r})", handler, ("ctx", "data"))
            self.operations[name] = handler
            return handler

        return register


def _check_handler(decorator: str, handler: Any, arguments: tuple[str, ...]) -> None:
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__ is a handler as well
    if inspect.isasyncgenfunction(handler):
        raise TypeError(f"@bundle.{decorator}: the handler must not yield; send text with `await turn.delta(...)`")
    if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)):
        raise TypeError(f"@bundle.{decorator}: the handler must be an `async def` function")
    try:
        inspect.signature(handler).bind(*arguments)
    except TypeError as error:
        called = f"{getattr(handler, '__name__', 'handler')}({', '.join(arguments)})"
        raise TypeError(
            f"@bundle.{decorator}: it is called as {called}, but its parameters do not fit: {error}"
        ) from None

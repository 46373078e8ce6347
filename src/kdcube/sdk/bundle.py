"""A bundle: its id and the handlers that it registers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_bundle_id
from kdcube.sdk.operations import Operation, OperationHandlerT, check_operation
from kdcube.sdk.turn import Turn

MessageHandler = Callable[[Turn], Awaitable[str | None]]

MessageHandlerT = TypeVar("MessageHandlerT", bound=MessageHandler)


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
        self.operations: dict[str, Operation] = {}

    def on_message(self, handler: MessageHandlerT) -> MessageHandlerT:
        """Registers the one handler of messages: ``async def answer(turn: Turn) -> None``.

        It answers with ``await turn.delta(...)``; a string that it returns is the answer if it sent none.
        """
        _check_handler("on_message", handler, ("turn",))
        if self.message_handler is not None:
            raise ValueError("the bundle has a message handler already: one handler takes all messages, keep one")
        self.message_handler = handler
        return handler

    def operation(
        self,
        name: str,
        *,
        public: bool = False,
        required_user_type: str | None = None,
        timeout_s: float | None = None,
        description: str | None = None,
    ) -> Callable[[OperationHandlerT], OperationHandlerT]:
        """Registers an operation: ``async def summarize(ctx: OperationContext, data: Text) -> Summary``.

        What it takes and gives is read from its signature: msgspec.Struct, dataclass, TypedDict or plain types;
        ``data`` may be left off. One that yields is a stream of items. ``public``: whoever does not sign in may call
        it, too. ``required_user_type``: the least class of users that may. ``timeout_s``: less than the entry allows.
        ``description`` is told in the OpenAPI document; else the handler's docstring.
        """
        if not name or not name.isascii() or not name.replace("_", "a").replace("-", "a").isalnum():
            raise ValueError(f"operation({name!r}): the name must be letters, digits, - and _")
        if name in self.operations:
            raise ValueError(f"operation({name!r}) is registered already: give the other one another name")

        def register(handler: OperationHandlerT) -> OperationHandlerT:
            told = inspect.getdoc(handler) or "" if description is None else description
            operation = Operation(name, handler, public, required_user_type, timeout_s, told)
            check_operation(operation)
            self.operations[name] = operation
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

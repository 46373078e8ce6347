"""Operations as a bundle declares them: what they take and give, by their signature, and as JSON schemas."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_origin

import msgspec

from kdcube.sdk import wire

OperationHandler: TypeAlias = Callable[..., Awaitable[Any] | AsyncIterator[Any]]
"""``(ctx)`` or ``(ctx, data)``; a coroutine function, or an asynchronous generator, which streams."""
OperationHandlerT = TypeVar("OperationHandlerT", bound=OperationHandler)

USER_TYPES = ("anonymous", "external", "registered", "paid", "privileged")

_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_SCHEMA_PLACE = "#/components/schemas/{name}"
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*?)`(?: - at `\$(?P<where>.*)`)?$", re.DOTALL)
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<where>.*)`)?$", re.DOTALL)


class InvalidData(Exception):
    """The data of a call is not what the operation takes. ``field`` is a path such as ``data.items[0].count``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Operation:
    """What ``@bundle.operation`` registered."""

    name: str
    handler: OperationHandler
    public: bool = False
    required_user_type: str | None = None
    timeout_s: float | None = None
    description: str = ""

    @property
    def function(self) -> Any:
        """What has the signature: the handler, or the ``__call__`` of an object."""
        handler = inspect.unwrap(self.handler)
        return handler if inspect.isroutine(handler) else getattr(cast("type[Any]", type(handler)), "__call__", handler)  # noqa: B004

    @property
    def streams(self) -> bool:
        return inspect.isasyncgenfunction(self.function)


class Undescribable(Exception):
    """An operation's signature says what cannot be read from JSON or written as JSON."""

    def __init__(self, operation: Operation, reason: str) -> None:
        super().__init__(f"operation {operation.name!r}: {reason}")
        self.operation = operation


@dataclass(frozen=True, slots=True)
class Taken:
    """One operation, ready to be called."""

    operation: Operation
    described: wire.Operation
    decoder: msgspec.json.Decoder[Any] | None

    def arguments(self, data: bytes) -> Sequence[Any]:
        """What the handler is called with behind its context. ``data`` is JSON, or nothing. Raises InvalidData."""
        if self.decoder is None:
            if data not in (b"", b"null", b"{}"):
                raise InvalidData("data", "the operation takes no data: leave it out")
            return ()
        if not data:
            if self.described.needs_data:
                raise InvalidData("data", "is missing")
            return () if self._has_default else (None,)
        try:
            return (self.decoder.decode(data),)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidData("data", "is not valid JSON in UTF-8") from None
        except RecursionError:
            raise InvalidData("data", "is nested too deeply") from None

    @property
    def _has_default(self) -> bool:
        return _parameters(self.operation)[1].default is not inspect.Parameter.empty


class Operations:
    """The operations of a bundle, by name. Raises Undescribable, which names the operation."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        signatures = [_signature(operation) for operation in operations.values()]
        types = [type_ for signature in signatures for type_ in signature]
        # All at once: two types of one name get different ones.
        schemas, self.schemas = msgspec.json.schema_components(types, ref_template=_SCHEMA_PLACE)
        self.by_name = {
            operation.name: _taken(operation, takes, schemas[2 * index], schemas[2 * index + 1])
            for index, (operation, (takes, _)) in enumerate(zip(operations.values(), signatures, strict=True))
        }

    @property
    def described(self) -> list[wire.Operation]:
        return [taken.described for taken in self.by_name.values()]


def check_operation(operation: Operation) -> None:
    """Whether it can be called at all. Raises TypeError, ValueError."""
    name = operation.name
    decorator = f"@bundle.operation({name!r})"
    if not (inspect.iscoroutinefunction(operation.function) or operation.streams):
        raise TypeError(f"{decorator}: the handler must be an `async def` function; with `yield` in it, it streams")
    if operation.required_user_type is not None and operation.required_user_type not in USER_TYPES:
        raise ValueError(f"{decorator}: required_user_type must be one of {', '.join(USER_TYPES)}")
    if operation.public and operation.required_user_type is not None:
        raise ValueError(f"{decorator}: what is public is for everybody; leave off required_user_type or public")
    if operation.timeout_s is not None and not operation.timeout_s > 0:
        raise ValueError(f"{decorator}: timeout_s must be above 0")
    for arguments in (("ctx", "data"), ("ctx",)):
        try:
            inspect.signature(operation.handler).bind(*arguments)
        except TypeError as error:
            reason = error
        else:
            return
    called = getattr(operation.handler, "__name__", "handler")
    raise TypeError(
        f"{decorator}: it is called as {called}(ctx, data) or {called}(ctx), but its parameters do not fit: {reason}"
    )


def _parameters(operation: Operation) -> Sequence[inspect.Parameter]:
    """Those that take ctx and data; one only where it takes no data."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(operation.handler).parameters.values():
        if parameter.kind in positional:
            found.append(parameter)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found += [parameter.replace(default=inspect.Parameter.empty)] * (2 - len(found))
    return found[:2]


def _signature(operation: Operation) -> tuple[Any, Any]:
    """The types of what it takes and of what it gives, or of each item."""
    parameters = _parameters(operation)
    takes = _resolved(operation, parameters[1].name, parameters[1].annotation) if len(parameters) == 2 else None
    given = _resolved(operation, "the answer", inspect.signature(operation.handler).return_annotation)
    if operation.streams:
        given = (get_args(given) or (Any,))[0] if get_origin(given) in _STREAMS else Any
    for what, type_ in (("its data", takes), ("the answer", given)):
        try:
            msgspec.json.schema_components([type_], ref_template=_SCHEMA_PLACE)
        except (TypeError, NameError) as error:
            raise Undescribable(
                operation,
                f"{what} is declared as {getattr(type_, '__name__', type_)}, which is no JSON: "
                f"give a msgspec.Struct, a dataclass, a TypedDict or plain types ({' '.join(str(error).split())})",
            ) from None
    return takes, given


def _resolved(operation: Operation, name: str, annotation: Any) -> Any:
    if annotation in (inspect.Parameter.empty, object):
        return Any
    function = operation.function
    try:
        hints = typing.get_type_hints(
            SimpleNamespace(__annotations__={"it": annotation}),
            globalns=getattr(function, "__globals__", {}),
            include_extras=True,
        )
    except Exception as error:  # noqa: BLE001 - an annotation is code of the bundle, and may raise anything
        raise Undescribable(
            operation,
            f"the annotation of {name} cannot be read: {error}; its types must be there when the module is loaded, "
            "not only for type checkers",
        ) from None
    return Any if hints["it"] is object else hints["it"]


def _taken(operation: Operation, takes: Any, input: dict[str, Any], output: dict[str, Any]) -> Taken:
    parameters = _parameters(operation)
    takes_data = len(parameters) == 2
    needs_data = takes_data and parameters[1].default is inspect.Parameter.empty and not _takes_null(takes)
    described = wire.Operation(
        name=operation.name,
        input=input if takes_data else {},
        output=output,
        description=operation.description,
        takes_data=takes_data,
        needs_data=needs_data,
        streams=operation.streams,
        public=operation.public,
        required_user_type=operation.required_user_type,
        timeout_s=operation.timeout_s,
    )
    return Taken(operation, described, msgspec.json.Decoder(takes) if takes_data else None)


def _takes_null(type_: Any) -> bool:
    try:
        msgspec.convert(None, type_)
    except msgspec.ValidationError:
        return False
    return True


def _invalid(told: str) -> InvalidData:
    """From msgspec's words: ``Expected `int`, got `str` - at `$.items[0]```."""
    if missing := _MISSING.match(told):
        return InvalidData(f"data{missing['where'] or ''}.{missing['name']}", "is missing")
    match = cast("re.Match[str]", _AT.match(told))
    return InvalidData(f"data{match['where'] or ''}", match["what"])

"""Operations: what they take and give, by their signature; how they fail; what they stream and ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from kdcube.sdk import Bundle, BundleError, Conversation, ConversationTurn, OperationContext, Refused
from kdcube.sdk.loading import LoadError, load_operations
from kdcube.sdk.operations import Operations
from kdcube.sdk.testing import Installation, OperationError, run_operation, stream_operation

pytestmark = pytest.mark.anyio


class Line(msgspec.Struct):
    text: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Order(msgspec.Struct):
    lines: list[Line]
    note: str | None = None


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    loud: bool


bundle = Bundle("a@1")


@bundle.operation("order")
async def order(ctx: OperationContext, data: Order) -> Line:
    return data.lines[0]


@bundle.operation("move")
async def move(ctx: OperationContext, data: Point) -> Point:
    """Moves a point.

    By one.
    """
    return Point(data.x + 1, data.y)


@bundle.operation("shout")
async def shout(ctx: OperationContext, data: Options) -> str:
    return "A" if data["loud"] else "a"


@bundle.operation("nothing")
async def nothing(ctx: OperationContext) -> None: ...


@bundle.operation("optional")
async def optional(ctx: OperationContext, data: Point = Point(1)) -> int:  # noqa: B008
    return data.x


@bundle.operation("anything")
async def anything(ctx, data):
    return data


@bundle.operation("count", public=True, timeout_s=3)
async def count(ctx: OperationContext, data: int) -> AsyncIterator[Point]:
    for number in range(data):
        yield Point(number)


@pytest.mark.parametrize(
    ("operation", "data", "answer"),
    [
        ("order", {"lines": [{"text": "a"}], "more": 1}, {"text": "a", "count": 1}),
        ("move", {"x": 1}, {"x": 2, "y": 0}),
        ("shout", {"loud": True}, "A"),
        ("nothing", None, None),
        ("nothing", {}, None),
        ("optional", None, 1),
        ("optional", {"x": 4}, 4),
        ("anything", [1, {"a": None}], [1, {"a": None}]),
        ("anything", None, None),
        ("count", 2, [{"x": 0, "y": 0}, {"x": 1, "y": 0}]),
        ("count", 0, []),
    ],
)
async def test_what_is_given_and_taken(operation, data, answer):
    assert await run_operation(bundle, operation, data) == answer


@pytest.mark.parametrize(
    ("operation", "data", "field", "told"),
    [
        ("order", {"lines": [{"text": "a"}, {"text": 1}]}, "data.lines[1].text", "Expected `str`, got `int`"),
        ("order", {"lines": [{"text": "a", "count": 0}]}, "data.lines[0].count", "Expected `int` >= 1"),
        ("order", {"lines": [{}]}, "data.lines[0].text", "is missing"),
        ("order", {}, "data.lines", "is missing"),
        ("order", [], "data", "Expected `object`, got `array`"),
        ("order", None, "data", "is missing"),
        ("move", {"x": "1"}, "data.x", "Expected `int`, got `str`"),
        ("shout", {"loud": None}, "data.loud", "Expected `bool`, got `null`"),
        ("nothing", {"x": 1}, "data", "takes no data"),
        ("count", "2", "data", "Expected `int`"),
    ],
)
async def test_wrong_data_is_named(operation, data, field, told):
    with pytest.raises(OperationError) as caught:
        await run_operation(bundle, operation, data)
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)
    assert told in caught.value.message and not caught.value.detail


def test_they_are_described():
    operations = Operations(bundle.operations)
    described = {operation.name: operation for operation in operations.described}
    assert described["order"].input == {"$ref": "#/components/schemas/Order"}
    assert operations.schemas["Order"]["required"] == ["lines"]
    assert described["move"].description == "Moves a point.\n\nBy one."
    assert (described["nothing"].takes_data, described["nothing"].output) == (False, {"type": "null"})
    assert [described[name].needs_data for name in ("order", "optional", "anything")] == [True, False, False]
    counted = described["count"]
    assert (counted.streams, counted.public, counted.timeout_s) == (True, True, 3)
    assert counted.output == {"$ref": "#/components/schemas/Point"}


def test_two_types_of_one_name_are_told_apart():
    def other() -> Bundle:
        class Point(msgspec.Struct):
            z: int

        bundle = Bundle("b@1")

        async def far(ctx: OperationContext, data: Any) -> None: ...

        far.__annotations__["data"] = Point
        bundle.operation("far")(far)
        bundle.operation("move")(move)
        return bundle

    described = Operations(other().operations)
    assert described.described[0].input != described.described[1].input
    assert len(described.schemas) == 2


class NoJson: ...


def test_what_is_no_json_does_not_load():
    bundle = Bundle("b@1")

    @bundle.operation("bad")
    async def bad(ctx: OperationContext, data: NoJson) -> None: ...

    with pytest.raises(LoadError, match="operation 'bad': its data is declared as NoJson, which is no JSON") as caught:
        load_operations(bundle)
    assert caught.value.file is not None and caught.value.file.name == "test_operations.py"


def test_an_annotation_that_is_not_there_does_not_load():
    bundle = Bundle("b@1")

    @bundle.operation("bad")
    async def bad(ctx: Elsewhere, data: Elsewhere) -> None: ...  # noqa: F821 # pyright: ignore

    with pytest.raises(LoadError, match="the annotation of data cannot be read: name 'Elsewhere' is not defined"):
        load_operations(bundle)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"required_user_type": "gold"}, "must be one of anonymous"),
        ({"required_user_type": "paid", "public": True}, "for everybody"),
        ({"timeout_s": 0}, "above 0"),
    ],
)
def test_contradictions_are_told_at_once(options, told):
    with pytest.raises(ValueError, match=told):
        Bundle("b@1").operation("x", **options)(nothing)


def test_handlers_must_fit():
    bundle = Bundle("b@1")
    with pytest.raises(TypeError, match="must be an `async def`"):
        bundle.operation("x")(lambda ctx: None)

    async def three(ctx, data, more): ...

    with pytest.raises(TypeError, match=r"called as three\(ctx, data\) or three\(ctx\)"):
        bundle.operation("x")(three)


async def test_results_are_bounded():
    bundle = Bundle("b@1")

    @bundle.operation("big")
    async def big(ctx, data):
        return "x" * data

    @bundle.operation("items")
    async def items(ctx, data):
        yield "x" * data

    assert len(await run_operation(bundle, "big", 2**20 - 2)) == 2**20 - 2
    for operation, size in (("big", 2**20 - 1), ("items", 2**18 - 1)):
        with pytest.raises(OperationError, match="result_too_large"):
            await run_operation(bundle, operation, size)


async def test_a_stream_waits_for_its_reader_and_ends_with_it():
    bundle, said = Bundle("b@1"), []

    @bundle.operation("endless")
    async def endless(ctx: OperationContext) -> AsyncIterator[str]:
        try:
            while True:
                said.append(1)
                yield "x" * 100_000
        finally:
            said.append("closed")

    async with aclosing(stream_operation(bundle, "endless")) as items:
        await anext(items)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(said) == 3  # two on their way, and one that has no room
        await anext(items)
    assert said[-1] == "closed"


async def test_what_fails_in_a_stream_comes_behind_its_items():
    bundle, got = Bundle("b@1"), []

    @bundle.operation("half")
    async def half(ctx):
        yield 1
        raise BundleError("half", "Half of it.")

    with pytest.raises(OperationError, match="half: Half of it"):
        async for item in stream_operation(bundle, "half"):
            got.append(item)
    assert got == [1]


async def test_conversations_are_read_and_turns_started_for_the_caller():
    bundle = Bundle("b@1")

    @bundle.operation("again")
    async def again(ctx: OperationContext, data: str) -> dict[str, Any]:
        found = await ctx.conversation(data)
        if found is None:
            raise BundleError("none", "There is none.")
        accepted = await ctx.start_turn(
            found.turns[-1].text, conversation_id=data, payload={"a": 1}, idempotency_key="k"
        )
        return {"turn": accepted.turn_id, "duplicate": accepted.duplicate}

    turn = ConversationTurn("t", "i", "b@1", "completed", "Hello", "Hi!")
    installation = Installation(Conversation("c1", "Talk", [turn]))
    assert await run_operation(bundle, "again", "c1", installation=installation) == {
        "turn": "test-turn-1",
        "duplicate": False,
    }
    sent = installation.sent[0]
    assert (sent.text, sent.conversation_id, sent.payload, sent.idempotency_key) == ("Hello", "c1", {"a": 1}, "k")
    assert (await run_operation(bundle, "again", "c1", installation=installation))["duplicate"]
    with pytest.raises(OperationError, match="none: There is none"):
        await run_operation(bundle, "again", "c2", installation=installation)


async def test_a_refusal_is_an_error_that_may_be_caught():
    bundle = Bundle("b@1")

    @bundle.operation("send")
    async def send(ctx: OperationContext, data: bool) -> str:
        try:
            await ctx.start_turn("x")
        except Refused as refused:
            if data:
                return f"{refused.code} {refused.retry_after_s}"
            raise
        return "sent"

    refusal = Installation(refusal=Refused("rate_limit_burst", "Too many.", retry_after_s=3))
    assert await run_operation(bundle, "send", True, installation=refusal) == "rate_limit_burst 3.0"
    with pytest.raises(OperationError, match="rate_limit_burst: Too many"):
        await run_operation(bundle, "send", False, installation=refusal)

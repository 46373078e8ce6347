"""No servers, no network, no model."""

import pytest
from bundle import bundle

from kdcube.sdk.testing import run, run_turn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_tool_is_called_and_what_it_says_is_told():
    result = await run_turn(bundle, "What time is it in Tokyo?")
    assert result.error is None
    assert result.answer == "It is 02:30 there. "
    assert [(step["title"], step["status"]) for step in result.steps] == [
        ("Looking at the clock of tokyo", "started"),
        ("It is 02:30", "completed"),
    ]
    assert len({step["step"] for step in result.steps}) == 1
    assert result.usage == [{"model": "scripted", "input_tokens": 3, "output_tokens": 4}]


async def test_it_streams():
    result = await run_turn(bundle, "And in Berlin?", history=[("user", "Tokyo?"), ("assistant", "It is 02:30 there.")])
    deltas = [event.text for event in result.events if type(event).__name__ == "Delta"]
    assert deltas == ["It ", "is ", "18:30 ", "there. "]


async def test_without_a_city_no_tool_is_called():
    result = await run_turn(bundle, "What time is it?")
    assert (result.answer, result.steps) == ("Name a city, please. ", [])


async def test_cancel_stops_the_graph():
    async with run(bundle, "What time is it in Berlin?") as session:
        await session.until(lambda: session.answer)
        session.cancel()
        result = await session.result()
    assert result.outcome == "cancelled"
    assert "there" not in result.answer

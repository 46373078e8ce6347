"""No servers, no network, no model."""

import pytest
from bundle import bundle

from kdcube.sdk.testing import run, run_turn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_tool_cites_the_rule_that_is_told():
    result = await run_turn(bundle, "How does a refund work?")
    assert result.error is None, result.error.detail
    assert result.answer == "Money is returned within 14 days. "
    assert [citation["uri"] for citation in result.citations] == ["rules:refund"]
    assert [step["status"] for step in result.steps] == ["started", "completed"]
    assert result.usage[0]["output_tokens"] > 0
    deltas = [event for event in result.events if type(event).__name__ == "Delta"]
    assert len(deltas) == 6


async def test_what_no_rule_covers():
    result = await run_turn(bundle, "And the weather?", history=[("user", "Hello"), ("assistant", "Hello!")])
    assert (result.answer, result.citations) == ("The rules say nothing about it. ", [])


async def test_a_correction_is_answered_in_the_same_turn():
    async with run(bundle, "How does a refund work?") as session:
        await session.until(lambda: session.answer)
        session.steer("I meant shipping")
        result = await session.result()
    assert result.applied_steers == ["I meant shipping"]
    assert result.answer.endswith("\n\nParcels leave on the day of the order. ")


async def test_cancel():
    async with run(bundle, "How does a refund work?") as session:
        await session.until(lambda: session.answer)
        session.cancel()
        assert (await session.result()).outcome == "cancelled"

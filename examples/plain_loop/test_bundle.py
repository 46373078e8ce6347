"""How a bundle is tested: no servers, no process. Run it with pytest from this folder."""

import pytest
from bundle import bundle

from kdcube.sdk.testing import run, run_operation, run_turn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_answer_cites_its_notes():
    result = await run_turn(bundle, "What is a fence?", state={"questions": 1})
    assert result.answer.startswith("Hello! A fence is")
    assert [citation["uri"] for citation in result.citations] == ["notes:fence"]
    assert result.steps[-1]["status"] == "completed"
    assert result.state == {"questions": 2}


async def test_correction_in_mid_turn_is_answered():
    async with run(bundle, "What is a fence?") as session:
        await session.until(lambda: session.answer)
        session.steer("I meant a lease")
        result = await session.result()
    assert result.applied_steers == ["I meant a lease"]
    assert "A lease is" in result.answer


async def test_cancel():
    async with run(bundle, "What is a cursor?") as session:
        await session.until(lambda: session.answer)
        session.cancel()
        assert (await session.result()).outcome == "cancelled"


async def test_empty_message():
    assert (await run_turn(bundle, " ")).error.code == "empty_message"


async def test_operation():
    assert await run_operation(bundle, "terms") == ["cursor", "fence", "lease"]

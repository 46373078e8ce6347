"""The echo bundle as pinned; what it does to its process is tested with real hosts."""

import importlib.util
import sys
from importlib import resources

import pytest

from kdcube.sdk.testing import run, run_operation, run_turn

pytestmark = pytest.mark.anyio

_spec = importlib.util.spec_from_file_location("echo_bundle", str(resources.files("kdcube") / "echo" / "bundle.py"))
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)
bundle = _module.bundle


@pytest.mark.parametrize("text", ["", " ", "one", "one two", "  lead\n\nand trail \t", "zwei Wörter", "a  b\nc"])
async def test_words_come_back_with_their_white_space(text):
    result = await run_turn(bundle, text)
    assert result.outcome == "completed"
    assert result.answer == text


async def test_one_delta_for_each_word():
    result = await run_turn(bundle, "one two  three")
    assert [event.text for event in result.events] == ["one ", "two  ", "three"]


async def test_ordered_deltas():
    result = await run_turn(bundle, "ignored", payload={"echo": {"deltas": 3, "text_bytes": 5, "delay_ms": 1}})
    assert [event.text for event in result.events] == ["xxxxx"] * 3


async def test_fail():
    result = await run_turn(bundle, "a b", payload={"echo": {"fail": True}})
    assert (result.outcome, result.error.code, result.answer) == ("failed", "echo_failed", "a b")
    result = await run_turn(bundle, "", payload={"echo": {"fail": "In these words."}})
    assert result.error.message == "In these words."


@pytest.mark.parametrize("orders", [{"delta": 1}, {"deltas": "many"}, {"deltas": -1}, 7])
async def test_orders_that_it_does_not_know(orders):
    result = await run_turn(bundle, "", payload={"echo": orders})
    assert result.error.code == "invalid_payload"


async def test_steers_are_echoed_in_mid_turn():
    async with run(bundle, payload={"echo": {"deltas": 2, "delay_ms": 60_000}}) as session:
        await session.until(lambda: session.answer)
        session.steer("faster")
        await session.until(lambda: "[steer: faster]" in session.answer)
        session.cancel()
        result = await session.result()
    assert result.applied_steers == ["faster"]
    assert result.answer == "0 [steer: faster]"


async def test_operation():
    assert await run_operation(bundle, "echo", {"x": 1}) == {"data": {"x": 1}, "user": "test-user"}

"""What a beat says of the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from kdcube.sdk.host import LoopLag
from kdcube.sdk.wire import lag_byte, lag_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seconds", [0.0, 0.0003, 0.004, 0.05, 0.7, 3.0, 59.0])
def test_a_byte_holds_a_time(seconds: float) -> None:
    assert lag_of(lag_byte(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.00005)


def test_what_does_not_fit() -> None:
    assert lag_of(lag_byte(None)) is None
    assert lag_byte(1e9) == 255
    assert lag_byte(-1.0) == lag_byte(0.0) == 1


async def test_a_loop_that_does_not_answer_lags_for_as_long() -> None:
    lag = LoopLag()
    now = time.monotonic()
    assert lag.look(now) is None  # there is no loop yet
    lag.loop = asyncio.get_running_loop()
    assert lag.look(now) is None
    assert lag.look(now + 2.5) == 2.5  # nothing else has run here since
    await asyncio.sleep(0)
    answer = lag.look(now + 3.5)
    assert answer is not None
    assert 0 <= answer < 2.5

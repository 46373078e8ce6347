"""What proc counts of turns."""

from __future__ import annotations

from typing import Any

import pytest

from kdcube.proc.turn_figures import MODELS_MAX, TurnFigures
from kdcube.protocol.turns import TurnState, UserType
from kdcube.telemetry.instruments import Instruments


def tokens(instruments: Instruments) -> dict[tuple[str, str], float]:
    """By model and direction."""
    return {
        (counter["labels"]["model"], counter["labels"]["direction"]): counter["total"]
        for counter in instruments.totals()["counters"]
        if counter["name"] == "tokens_used"
    }


def test_tokens_are_added_up() -> None:
    instruments = Instruments()
    figures = TurnFigures(instruments)
    for _ in range(2):
        figures.used("echo", {"model": "openai/gpt-4o:mini", "input_tokens": 10, "output_tokens": 3})
    assert tokens(instruments) == {("openai/gpt-4o:mini", "input"): 20, ("openai/gpt-4o:mini", "output"): 6}


def test_models_are_the_bundles_words() -> None:
    """Whatever they are, they neither fill the memory nor say anything but a name."""
    instruments = Instruments()
    figures = TurnFigures(instruments)
    for model in [*(f"m{number}" for number in range(2 * MODELS_MAX)), "a b", "x" * 65, "", 7, None, "m\n"]:
        figures.used("echo", {"model": model, "input_tokens": 1})
    told = tokens(instruments)
    assert len(told) == MODELS_MAX + 1
    assert told["other", "input"] == MODELS_MAX + 6


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"input_tokens": "7"}, {"input_tokens": -1}, {"output_tokens": True}]
)
def test_what_is_no_usage_counts_for_nothing(data: Any) -> None:
    instruments = Instruments()
    TurnFigures(instruments).used("echo", data)
    assert tokens(instruments) == {}


def test_what_happens_for_the_first_time_is_an_increase() -> None:
    instruments = Instruments()
    figures = TurnFigures(instruments)
    before = instruments.totals()["counters"]
    figures.rebuilt()
    figures.lost()
    figures.returned()
    for state in (TurnState.CLAIMED, TurnState.RUNNING):
        figures.expired(state)
    after = instruments.totals()["counters"]
    assert [{**counter, "total": counter["total"] + 1} for counter in before] == after
    figures.started("echo", UserType.PAID, 1, 5)
    assert [counter["total"] for counter in instruments.totals()["counters"] if "bundle" in counter["labels"]] == [1, 0]

"""What a bench tells: a result to keep, and the section of the report that shows it."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several rounds. ``str`` gives the median and, when there were several, the range."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        text = digits(self.median)
        return text if self.rounds == 1 else f"{text} ({digits(self.low)} to {digits(self.high)})"


def percents(of: Spread) -> str:
    """Of shares: the median, and the range where there was more than one round."""
    text = f"{of.median * 100:.1f} %"
    return text if of.rounds == 1 else f"{text} ({of.low * 100:.1f} to {of.high * 100:.1f})"


def spread(values: Iterable[float]) -> Spread:
    figures = sorted(values)
    return Spread(statistics.median(figures), figures[0], figures[-1], len(figures))


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one block of measurements, in milliseconds."""

    p50_ms: float
    p99_ms: float
    count: int


def quantiles(seconds: Sequence[float]) -> Quantiles:
    """Of at least two values."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return Quantiles(cuts[49] * 1000, cuts[98] * 1000, len(seconds))


@dataclass(frozen=True, slots=True)
class Target:
    """What was wanted of a figure. ``at_least``: more is better, otherwise less is."""

    what: str
    wanted: float
    measured: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    @property
    def limit(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {digits(self.wanted)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars for each label, side by side or stacked. ``name`` is the file's."""

    name: str
    title: str
    labels: Sequence[str]
    series: dict[str, Sequence[float]]
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines through points (x, y), by name. ``name`` is the file's."""

    name: str
    title: str
    series: dict[str, Sequence[tuple[float, float]]]
    x_title: str
    y_title: str


@dataclass(frozen=True, slots=True)
class Section:
    """How one bench appears in the report. ``how``: what was done, in a few sentences."""

    title: str
    how: str
    tables: Sequence[Table]
    charts: Sequence[Chart | Curves] = ()
    targets: Sequence[Target] = ()


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: ``quick`` shows that all works and gives rough figures."""

    quick: bool = False

    def of(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: ``measure`` gives a result of type ``result``, ``section`` shows it.

    ``needs``: a program without which it is left out.
    """

    name: str
    result: type
    measure: Callable[[Effort], Awaitable[Any]]
    section: Callable[[Any], Section]
    needs: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when it was measured."""

    processor: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    commit: str
    began: str
    load_before: float
    """Average number of processes that ran or waited to run in the minute before."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one run. ``results`` by the name of their bench, as JSON gives them back."""

    machine: Machine
    quick: bool
    took_s: float
    results: dict[str, Any] = field(default_factory=dict[str, Any])

"""How long turns run: what was measured, or what is assumed, as values that are equally likely."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdcube.telemetry.percentiles import percentile_s

_POINTS = 2_000
"""Quantiles that stand for a distribution; the last one is that of 99.975 %."""
_Z95 = statistics.NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """``values_s`` in rising order, at least one, none below 0."""

    values_s: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Iterable[float]) -> ServiceTimes:
        """As measured one by one. Raises ValueError without any, or with one that is no time."""
        values = tuple(sorted(seconds))
        if not values:
            raise ValueError("there is no time at all")
        if not (values[0] >= 0 and math.isfinite(values[-1])):
            raise ValueError("a time must be at least 0 and finite")
        return cls(values)

    @classmethod
    def fixed(cls, seconds: float) -> ServiceTimes:
        return cls.of([seconds])

    @classmethod
    def lognormal(cls, p50_s: float, p95_s: float) -> ServiceTimes:
        """The distribution that times of programs and of people usually resemble, by two of its percentiles."""
        if not 0 < p50_s <= p95_s:
            raise ValueError("p50_s must be above 0 and p95_s not below it")
        sigma = math.log(p95_s / p50_s) / _Z95
        logs = statistics.NormalDist(math.log(p50_s), max(sigma, 1e-12))
        return cls._with_mean(
            (math.exp(logs.inv_cdf(share)) for share in _shares()), p50_s * math.exp(sigma * sigma / 2)
        )

    @classmethod
    def of_histogram(cls, buckets: Mapping[int, int], sum_s: float) -> ServiceTimes:
        """Of merged buckets (``telemetry/instruments.py``). Shape by the buckets, whose width is 19 %; the mean is
        exact, as the sum is. Raises ValueError when nothing was observed.
        """
        count = sum(buckets.values())
        if not count:
            raise ValueError("nothing was observed")
        points = (percentile_s(buckets, share) or 0.0 for share in _shares())
        return cls._with_mean(points, sum_s / count)

    @classmethod
    def _with_mean(cls, points: Iterable[float], mean_s: float) -> ServiceTimes:
        values = list(points)
        factor = mean_s / statistics.fmean(values) if any(values) else 1.0
        return cls.of(value * factor for value in values)

    @property
    def mean_s(self) -> float:
        return statistics.fmean(self.values_s)

    @property
    def variability(self) -> float:
        """The squared coefficient of variation: variance over the square of the mean. 0 is fixed, 1 exponential."""
        mean = self.mean_s
        return statistics.pvariance(self.values_s, mean) / mean**2 if mean else 0.0

    def percentile_s(self, share: float) -> float:
        """What ``share`` of the times do not exceed."""
        return percentile_of(self.values_s, share)

    def draw(self, random_: random.Random) -> float:
        return self.values_s[int(random_.random() * len(self.values_s))]


def percentile_of(rising: tuple[float, ...] | list[float], share: float) -> float:
    """Of values in rising order, at least one: between neighbours by interpolation."""
    place = share * (len(rising) - 1)
    below = math.floor(place)
    above = min(below + 1, len(rising) - 1)
    return rising[below] + (rising[above] - rising[below]) * (place - below)


def _shares() -> Iterable[float]:
    return ((number + 0.5) / _POINTS for number in range(_POINTS))

"""What the processes of one component counted, all of them together: totals that never go back, and windows over them.

A *life* is one process from its start to its end. Its reports hold totals since its start, so what it counted between
two reports is their difference; of a life that was not known before, all of it counts. A life that ends leaves what it
had reported, so at most its last interval is lost.

Windows are differences to moments that are kept. What a life counted before we heard it, or while we did not, belongs
into the windows as far as its own windows say so: it is spread over the moments that are kept, evenly over that window.
So windows are right from the first reading on, whoever was restarted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kdcube.metrics.figures import Figures
from kdcube.metrics.picture import Count, Distribution
from kdcube.telemetry.instruments import WINDOWS, Key

Life: TypeAlias = tuple[str, int]
"""A source and when its process started (ms). Two processes under one name are two lives."""

GAP_MS = 15_000
"""Between two reports of a life: what it counted meanwhile did not just happen."""
FORGET_S = 24 * 3600.0
"""A life that was not heard for so long is over; should it speak again, all that it says counts once more."""

_NOTHING = Figures()


@dataclass(slots=True)
class _Heard:
    at_ms: int
    figures: Figures
    heard_s: float


@dataclass(slots=True)
class _Moment:
    at_s: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class _Arrived:
    """What was counted while nobody listened."""

    before: Figures
    """Before the window."""
    within: Figures


class Totals:
    """``now_s`` is monotonic time, everywhere."""

    def __init__(self, now_s: float) -> None:
        self._total = _NOTHING
        self._lives: dict[Life, _Heard] = {}
        self._moments = {
            name: deque(
                _Moment(now_s - length_s + step * step_s, _NOTHING) for step in range(int(length_s / step_s) + 1)
            )
            for name, (length_s, step_s) in WINDOWS.items()
        }

    def hear(self, reports: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
        """Takes the present reports, by source. One that was taken before adds nothing."""
        self._pass_silence(now_s)
        arrivals: dict[tuple[str, float], _Arrived] = {}
        for source, report in reports.items():
            more = self._take((source, report["started_ms"]), report, now_s)
            if more is not None:
                _arrive(arrivals, more, report)
        for (name, length_s), arrived in arrivals.items():
            _spread(self._moments[name], arrived, length_s, now_s)
        self._slide(now_s)
        for life in [life for life, heard in self._lives.items() if now_s - heard.heard_s > FORGET_S]:
            del self._lives[life]

    def counters(self) -> dict[Key, Count]:
        windows = self._windows()
        return {
            key: Count(total, {name: figures.counters.get(key, 0) for name, figures in windows.items()})
            for key, total in self._total.counters.items()
        }

    def histograms(self) -> dict[Key, Distribution]:
        windows = self._windows()
        return {
            key: Distribution(total, {name: figures.histograms[key] for name, figures in windows.items()})
            for key, total in self._total.histograms.items()
        }

    def _windows(self) -> dict[str, Figures]:
        return {name: self._total.since(moments[0].figures) for name, moments in self._moments.items()}

    def _take(self, life: Life, report: Mapping[str, Any], now_s: float) -> Figures | None:
        """Adds what is new. Gives it, if it did not all come since the reading before."""
        before, at_ms, figures = self._lives.get(life), int(report["at_ms"]), Figures.of(report)
        if before is not None and at_ms <= before.at_ms:
            before.heard_s = now_s
            return None
        more = figures.since(before.figures if before else _NOTHING)
        self._lives[life] = _Heard(at_ms, figures, now_s)
        self._total = self._total.plus(more)
        return more if before is None or at_ms - before.at_ms > GAP_MS else None

    def _pass_silence(self, now_s: float) -> None:
        """Nothing was heard for a while: the moments of it are as the last one was."""
        for name, (_, step_s) in WINDOWS.items():
            moments = self._moments[name]
            while moments[-1].at_s + 2 * step_s <= now_s:
                moments.append(_Moment(moments[-1].at_s + step_s, self._total))
            self._drop(name, now_s)

    def _slide(self, now_s: float) -> None:
        for name, (_, step_s) in WINDOWS.items():
            if now_s - self._moments[name][-1].at_s >= step_s:
                self._moments[name].append(_Moment(now_s, self._total))
            self._drop(name, now_s)

    def _drop(self, name: str, now_s: float) -> None:
        moments = self._moments[name]
        while len(moments) > 1 and now_s - moments[0].at_s > WINDOWS[name][0]:
            moments.popleft()


def _arrive(arrivals: dict[tuple[str, float], _Arrived], more: Figures, report: Mapping[str, Any]) -> None:
    """Divides ``more`` by the report's own windows. Those of about the same length are put together."""
    for name, (_, step_s) in WINDOWS.items():
        length_s = math.ceil(report["windows_s"][name] / step_s) * step_s
        before = more.since(Figures.of_window(report, name))
        within = more.since(before)
        known = arrivals.get((name, length_s))
        arrivals[name, length_s] = (
            _Arrived(before, within)
            if known is None
            else _Arrived(known.before.plus(before), known.within.plus(within))
        )


def _spread(moments: Iterable[_Moment], arrived: _Arrived, length_s: float, now_s: float) -> None:
    """All moments had what was before the window, and those within it a part of the rest, by how late they are."""
    kept = list(moments)
    begin_s = max(now_s - length_s, kept[0].at_s)
    for moment in kept:
        passed = (moment.at_s - begin_s) / (now_s - begin_s) if now_s > begin_s else 0.0
        part = arrived.within.share(min(1.0, max(0.0, passed)))
        moment.figures = moment.figures.plus(arrived.before).plus(part)

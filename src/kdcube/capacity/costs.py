"""CPU time of a turn by component, as ``python -m bench`` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kdcube.protocol.errors import InvalidInput

COMPONENTS = ("ingress", "proc", "bundle hosts", "valkey", "postgres")
_DELTAS = 20
"""Of the turn whose cost is the base."""


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU microseconds: ``turn_us`` of a turn of 20 deltas, ``delta_us`` of one more."""

    turn_us: Mapping[str, float]
    delta_us: Mapping[str, float]

    def of_turn_us(self, component: str, deltas: float) -> float:
        return self.turn_us[component] + max(deltas - _DELTAS, 0) * self.delta_us[component]

    def cores(self, component: str, turns_per_s: float, deltas: float) -> float:
        """How many cores are busy with it on average."""
        return turns_per_s * self.of_turn_us(component, deltas) / 1e6

    def told(self, component: str) -> str:
        return f"{self.turn_us[component]:.0f} µs a turn and {self.delta_us[component]:.2f} a delta beyond {_DELTAS}"


MEASURED = Costs(
    {"ingress": 675, "proc": 505, "bundle hosts": 131, "valkey": 504, "postgres": 453},
    {"ingress": 0.43, "proc": 1.32, "bundle hosts": 0.90, "valkey": 0.04, "postgres": 0.25},
)
"""docs/performance.md, "Turns per second": what this code costs, on that machine, without what bundles do."""


class _Spread(msgspec.Struct):
    median: float


class _Load(msgspec.Struct):
    kind: str
    cpu_us: dict[str, _Spread]


class _Turns(msgspec.Struct):
    loads: list[_Load]
    delta_us: dict[str, float]


class _Results(msgspec.Struct):
    turns: _Turns


class _Report(msgspec.Struct):
    results: _Results


def read_costs(path: Path) -> Costs:
    """Of a report of the bench (``bench/results/latest.json``). Raises InvalidInput."""
    try:
        turns = msgspec.json.decode(path.read_bytes(), type=_Report).results.turns
        base = next(load for load in turns.loads if load.kind == f"{_DELTAS} deltas")
        return Costs(
            {name: base.cpu_us[name].median for name in COMPONENTS}, {name: turns.delta_us[name] for name in COMPONENTS}
        )
    except (OSError, msgspec.DecodeError, StopIteration, KeyError) as error:
        raise InvalidInput(
            "costs", f"{path} is no report of python -m bench with its bench turns: {_said(error)}"
        ) from None


def _said(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) else str(error)
    return told or "a part is missing"

"""Makes measuring something that a signal turns off (SIGUSR1) and on again (SIGUSR2), in ingress and proc of the bench.

What is swapped is the code of the functions themselves, so that everybody who holds one of them is affected. The calls
stay, and so do readings of the clock on the way: what is missing of the cost is an empty call each.
"""

from __future__ import annotations

import signal
import sys
from types import CodeType, FunctionType
from typing import cast

_MEASURED = ("kdcube.ingress", "kdcube.proc")


def _nothing(*_: object, **__: object) -> None:
    pass


async def _nothing_later(*_: object, **__: object) -> None:
    pass


def _switched() -> dict[FunctionType, tuple[CodeType, CodeType]]:
    """By function: its own code, and that which does nothing."""
    from kdcube.gateway.reporting import Reporting
    from kdcube.gateway.traffic import Traffic
    from kdcube.ingress.streams.figures import StreamFigures
    from kdcube.proc.bundles.figures import HostFigures
    from kdcube.proc.turn_figures import TurnFigures
    from kdcube.telemetry.instruments import Counter, Histogram

    quiet = (
        *(Counter.add, Histogram.observe, Traffic.answered, HostFigures.lag),
        *(StreamFigures.opened, StreamFigures.ended),
        *(TurnFigures.claimed, TurnFigures.started, TurnFigures.spoke, TurnFigures.used, TurnFigures.ended),
    )
    found = {function: (function.__code__, _nothing.__code__) for function in map(_function, quiet)}
    write = _function(Reporting.write)
    return {**found, write: (write.__code__, _nothing_later.__code__)}


def _function(function: object) -> FunctionType:
    return cast("FunctionType", function)


def _install() -> None:
    switched = _switched()

    def switch(number: int, _: object) -> None:
        for function, codes in switched.items():
            function.__code__ = codes[number == signal.SIGUSR1]

    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)


if any(name in sys.orig_argv for name in _MEASURED):
    _install()

"""What autoscalers are told: each signal by its formula, and nothing where nothing is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.metrics.pictures import counted, facts, ingress, key, level, picture, proc, stale, within_a_bucket

from kdcube.config.signals import SIGNALS, table
from kdcube.ingress.app import _router
from kdcube.metrics.picture import Component, Picture
from kdcube.metrics.signals import FULL, NOT_ANSWERED_AT_ONCE, Absent, Signal, signals


def values(of: Picture) -> dict[str, float]:
    return {signal.name.key: signal.value for signal in signals(of) if isinstance(signal, Signal)}


def absent(of: Picture) -> dict[str, bool]:
    """Those without a value: whether they are stale."""
    return {signal.name.key: signal.stale for signal in signals(of) if isinstance(signal, Absent)}


def test_every_signal_has_its_value():
    told = values(picture(queue=facts()))
    times = {name: told.pop(name) for name in list(told) if name.endswith("_ms")}
    assert told == {
        "ingress.sse.total_connections": 300,
        "ingress.sse.max_connections": 800,
        "ingress.sse.saturation": 0.375,
        "ingress.sse.saturation_percent": 37.5,
        "ingress.throttle.rate_limit_429": 7,
        "ingress.throttle.backpressure_503": 11,
        "proc.queue.total": 20,
        "proc.queue.utilization": 0.08,
        "proc.queue.utilization_percent": 8,
        "proc.queue.backlog_per_slot": 0.75,
        "proc.active_tasks": 10,
        "proc.capacity.utilization": 0.625,
    }
    assert set(told) | set(times) == set(SIGNALS)
    assert within_a_bucket(times["proc.queue.wait.p95_ms"], 4000)  # of both classes together
    assert within_a_bucket(times["proc.exec.p95_ms"], 2000)
    # Neither refusals nor probes make it look quick, nor do streams make it look slow.
    assert within_a_bucket(times["ingress.rest.latency.p95_ms"], 20)


def test_what_is_stale_is_not_there():
    lost = {key for key in SIGNALS if key.startswith("ingress.")}
    assert absent(picture((stale("ingress"), proc()), facts())) == dict.fromkeys(lost, True)
    of_proc = {"proc.queue.wait.p95_ms", "proc.exec.p95_ms"}
    # What waits is known without those who should take it, and must be: it is what calls for them.
    assert absent(picture((ingress(), stale("proc")), facts())) == dict.fromkeys(of_proc, True)
    of_queue = {key for key in SIGNALS if key.startswith("proc.")} - of_proc
    assert absent(picture()) == dict.fromkeys(of_queue, True)
    nothing = picture((stale("ingress"), stale("proc")))
    assert absent(nothing) == dict.fromkeys(SIGNALS, True) and not values(nothing)


def test_what_cannot_be_known_is_not_there():
    quiet = picture((Component("ingress", stale=False), Component("proc", stale=False)), facts(slots=0))
    told = values(quiet)
    assert told == {
        "ingress.throttle.rate_limit_429": 0,  # nobody was refused: that is known
        "ingress.throttle.backpressure_503": 0,
        "proc.queue.total": 20,
        "proc.active_tasks": 10,
    }
    assert absent(quiet) == dict.fromkeys(SIGNALS.keys() - told.keys(), False)


def test_the_limit_of_the_queue_is_one_for_all():
    """Each process tells it; a sum would hide how full it is."""
    told = values(picture((Component("ingress", stale=False, gauges={key("queue_cap"): level(40, 40, 40)}),), facts()))
    assert told["proc.queue.utilization"] == 0.5


@pytest.mark.parametrize("reason", sorted(FULL))
def test_reasons_that_more_processes_help_against(reason):
    labels = {"reason": reason, "status": "503", "user_type": "paid"}
    component = Component("ingress", stale=False, counters={key("requests_refused", **labels): counted(2)})
    assert values(picture((component,)))["ingress.throttle.backpressure_503"] == 2


def test_routes_that_are_left_out_exist():
    routes = {path for path in _router.__code__.co_consts if isinstance(path, str)}
    assert NOT_ANSWERED_AT_ONCE - {"none"} <= routes


def test_the_page_shows_the_signals():
    """Put the lines of ``table()`` between the marks when this fails."""
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    assert page.partition("<!-- signals -->\n")[2].partition("<!-- /signals -->")[0] == "\n".join(table()) + "\n"

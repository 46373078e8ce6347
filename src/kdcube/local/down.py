"""Ending what ``kdcube up`` has started, from another process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from kdcube.local.home import Home
from kdcube.local.state import end_leftovers, read_state, wait_until_over

_LEFTOVER_GRACE_S = 10.0
_MARGIN_S = 15.0


def bring_down(home: Home, report: Callable[[str], None]) -> bool:
    """Have the supervisor drain and end everything; without one, end what it has left. False when nothing ran."""
    state = read_state(home.state_file)
    if state is None:
        return False
    supervisor = state.supervisor
    ran = supervisor.alive
    if ran:
        os.kill(supervisor.pid, signal.SIGTERM)
        wait_until_over(supervisor, state.drain_limit_s + _MARGIN_S)
        if supervisor.alive:
            report(f"the supervisor (process {supervisor.pid}) does not end and is killed")
            os.kill(supervisor.pid, signal.SIGKILL)
            wait_until_over(supervisor, _MARGIN_S)
    return sweep(home, report) or ran


def sweep(home: Home, report: Callable[[str], None]) -> bool:
    """End what a supervisor that is no more has left. False when it left nothing."""
    state = read_state(home.state_file)
    if state is None or state.supervisor.alive:
        return False
    left = [service for service in state.services if service.process.alive]
    end_leftovers(state.services, _LEFTOVER_GRACE_S, report)
    home.state_file.unlink(missing_ok=True)
    return bool(left)

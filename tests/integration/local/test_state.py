"""Leftovers of a killed supervisor are found and ended; strangers are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kdcube.local.process import Program, birth_of, start
from kdcube.local.state import ProcessRecord, ServiceRecord, State, end_leftovers, read_state, write_state


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = start(Program((sys.executable, "-S", "-c", "import signal; signal.pause()")))
    yield process
    process.kill()
    process.wait()


def record(pid: int, birth: str | None) -> ServiceRecord:
    return ServiceRecord("proc", "proc-0", "", ProcessRecord(pid, birth or ""), signal.SIGTERM)


def test_leftovers_are_ended(sleeper):
    lines: list[str] = []
    end_leftovers([record(sleeper.pid, birth_of(sleeper.pid))], 20, lines.append)
    assert sleeper.wait(20) == -signal.SIGTERM
    assert lines == [f"ending proc-0 (process {sleeper.pid}), which an earlier run has left"]


def test_a_stubborn_leftover_is_killed(sleeper):
    sleeper.send_signal(signal.SIGSTOP)  # so that it takes no SIGTERM
    end_leftovers([record(sleeper.pid, birth_of(sleeper.pid))], 0, print)
    assert sleeper.wait(20) == -signal.SIGKILL


def test_a_stranger_with_the_same_pid_is_left_alone(sleeper):
    end_leftovers([record(sleeper.pid, "another life")], 20, print)
    assert birth_of(sleeper.pid)


def test_an_ended_process_has_no_life_even_before_it_is_reaped(sleeper):
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert birth_of(sleeper.pid) is None


def test_the_record_survives_the_round_trip(tmp_path):
    state = State(ProcessRecord(1, "x"), "http://127.0.0.1:8010", [record(2, "y")], 30.0)
    write_state(tmp_path / "state.json", state)
    assert read_state(tmp_path / "state.json") == state


@pytest.mark.parametrize("content", ["", "{", '{"supervisor": 1}'])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    assert read_state(tmp_path / "state.json") is None


def test_no_record_is_none(tmp_path):
    assert read_state(tmp_path / "state.json") is None

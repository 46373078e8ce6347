"""The thread of a host that beats, and that feels proc's pulse."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kdcube.proc.bundles.pulse import Pulse
from kdcube.sdk import host
from kdcube.sdk.wire import PROC_SILENCE_S


class Exited(BaseException):
    pass


@dataclass
class Time:
    """Each sleep takes what ``steps`` says, after proc has beaten or not; then the test is over."""

    pulse: Pulse
    steps: list[tuple[float, bool]]
    now: float = 100.0
    slept: int = field(default=0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        if self.slept == len(self.steps):
            raise StopIteration
        took_s, beaten = self.steps[self.slept]
        self.slept += 1
        self.now += took_s
        if beaten:
            self.pulse.beat()


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    pulse = Pulse()
    yield pulse
    pulse.close()


def exits_after(pulse: Pulse, steps: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch) -> int | None:
    """How many steps the host takes until it exits; None when it stays."""

    def leave(_: int) -> None:
        raise Exited

    time = Time(pulse, steps)
    monkeypatch.setattr(host, "time", time)
    monkeypatch.setattr(host.os, "_exit", leave)
    reads, writes = os.pipe()
    memory = mmap.mmap(pulse.fd, 8, prot=mmap.PROT_READ)
    try:
        host._beat(writes, memory, host.LoopLag())
    except Exited:
        return time.slept
    except StopIteration:
        return None
    finally:
        os.close(reads)
        os.close(writes)
        memory.close()
    raise AssertionError


def test_a_host_leaves_when_proc_has_been_silent_for_long_enough(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.beat()
    assert exits_after(pulse, [(1.0, True)] * 3 + [(1.0, False)] * 20, monkeypatch) == 3 + PROC_SILENCE_S + 1


def test_a_host_stays_while_proc_beats_now_and_then(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.beat()
    assert exits_after(pulse, ([(1.0, False)] * int(PROC_SILENCE_S) + [(1.0, True)]) * 3, monkeypatch) is None


def test_a_host_stays_until_the_pulse_has_begun(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exits_after(pulse, [(1.0, False)] * 100, monkeypatch) is None


def test_time_in_which_everything_stood_still_is_no_silence(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.beat()
    assert exits_after(pulse, [(600.0, False), (600.0, False), (1.0, True)], monkeypatch) is None


def test_hosts_cannot_write_the_pulse(pulse: Pulse) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(pulse.fd, 8)

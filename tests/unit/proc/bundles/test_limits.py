from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.limits import MEMORY_LIMIT_MB, Machine, ProcessLimits, warn_of_limits

MB = 1024 * 1024
MACHINE = Machine(memory_bytes=24_000 * MB, cores=(0, 1, 2, 3, 4), open_files=1_024)


def limits(machine: Machine = MACHINE, number: int = 0, **fields: int) -> ProcessLimits:
    return ProcessLimits.of(BundleEntry(id="a", path="/a", **fields), machine, number)


def test_without_a_word_memory_is_bounded_by_what_is_here():
    assert limits().memory_bytes == MEMORY_LIMIT_MB * MB
    assert limits(Machine(1_000 * MB, (0,), 1_024)).memory_bytes == 500 * MB
    assert limits(Machine(1_000 * MB, (0,), 1_024), memory_limit_mb=900).memory_bytes == 900 * MB


def test_a_file_may_be_as_large_as_the_folder():
    assert limits(temp_limit_mb=10).file_bytes == 10 * MB
    assert limits(temp_limit_mb=10, file_size_limit_mb=2).file_bytes == 2 * MB


def test_no_more_files_than_proc_may_have():
    assert limits(open_files_limit=4_096).open_files == 1_024


def test_hosts_are_spread_over_the_cores():
    assert [limits(number=number, cpu_limit=2).cores for number in range(3)] == [(3, 4), (1, 2), (0, 4)]
    assert limits(cpu_limit=5).cores is None
    assert limits().cores is None


def test_the_machine_is_read():
    here = Machine.here()
    assert here.memory_bytes > 100 * MB
    assert here.cores
    assert here.open_files > 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"memory_limit_mb": 24_001}, ["memory_limit_mb"]),
        ({"cpu_limit": 6}, ["cpu_limit"]),
        ({"memory_limit_mb": 24_000, "cpu_limit": 5}, []),
        ({}, []),
    ],
)
def test_a_limit_that_has_no_effect_here_is_told(fields: dict[str, int], told: list[str]):
    with capture_logs() as logs:
        warn_of_limits(BundleEntry(id="a", path="/a", **fields), MACHINE)
    assert [entry["limit"] for entry in logs] == told

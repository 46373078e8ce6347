"""The machine that a report speaks of."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from bench.report import Machine


def this_machine() -> Machine:
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory_kb = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1])
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return Machine(
        processor=processors[0].partition(":")[2].strip() if processors else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(memory_kb / 1024**2, 1),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        commit=git.stdout.strip(),
        began=datetime.now(UTC).isoformat(timespec="minutes"),
        load_before=round(os.getloadavg()[0], 2),
    )

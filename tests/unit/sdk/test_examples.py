"""The examples load and their own tests pass, as a newcomer would run them."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_plain_loop():
    ran = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "anyio", "-p", "no:cacheprovider", "-c", os.devnull, "."],
        env={"PATH": os.defpath, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=EXAMPLES / "plain_loop",
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 passed" in ran.stdout

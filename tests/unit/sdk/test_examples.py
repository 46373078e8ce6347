"""The examples load and their own tests pass, as a newcomer would run them: without a network, a server or a key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
TESTS = {"plain_loop": 5, "langgraph_agent": 4, "pydantic_ai_agent": 4, "ticket_desk": 4}


def test_every_example_is_tried():
    assert {folder.parent.name for folder in EXAMPLES.glob("*/bundle.py")} == set(TESTS)


@pytest.mark.parametrize(("example", "tests"), TESTS.items())
def test_an_example(example, tests):
    ran = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "anyio", "-p", "no:cacheprovider", "-c", os.devnull, "."],
        env={"PATH": os.defpath, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=EXAMPLES / example,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{tests} passed" in ran.stdout
    assert "warning" not in ran.stdout

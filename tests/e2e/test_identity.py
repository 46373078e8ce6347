"""docs/identity.md: what it says to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()


def test_the_commands_about_api_keys(stack, tmp_path):
    commands = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[-1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands.replace(":8010", f":{stack.port}")],
        cwd=tmp_path,
        env={"PATH": path, "ADMIN_TOKEN": "token-admin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"user_id":"service:nightly"' in done.stdout
    assert "Hello from a program" in done.stdout
    assert '"status":"revoked"' in done.stdout

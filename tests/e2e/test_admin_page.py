"""docs/admin.md: each command does what the page says, in the order of the page."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "admin.md").read_text()
COMMANDS = [
    command
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for command in re.findall(r"(?:[^\n]*\\\n)*[^\n]+", block)
]


@pytest.mark.timeout(180)
async def test_the_commands_work(new_stack, connect):
    stack = new_stack()
    client = connect(stack)
    turn = (await client.sent())["task_id"]
    await client.ended(turn)
    variables = {
        "PATH": "/usr/bin:/bin",
        "URL": stack.ingress[0],
        "TOKEN": "token-admin",
        "TURN": turn,
        "BUNDLE": "echo@1.0.0",
    }

    def run(command: str) -> dict[str, Any]:
        done = subprocess.run(["bash", "-c", command], env=variables, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert "error" not in answer, f"{command}\n{answer}"
        return answer

    answers = [run(command) for command in COMMANDS]
    shown, tried, patched, replaced, history, rolled, reset = answers[:7]
    listed, entry, renamed, reloaded, release, releases, back = answers[7:14]
    audit, facts, revoked, picture = answers[14:]
    assert (shown["version"], tried["valid"], patched["version"], replaced["version"]) == (0, True, 2, 3)
    assert tried["changes"] == patched["changes"] != []
    assert replaced["resolved"]["profile"] == "testing"
    assert [(one["version"], one["reason"]) for one in history["items"]] == [(3, None), (2, "evening"), (1, None)]
    assert (rolled["version"], reset["version"]) == (4, 5)
    assert {item["bundle_id"] for item in listed["items"]} == {"docs@1.0.0", "echo@1.0.0"}
    assert entry["valid"]
    assert (renamed["release"]["reason"], reloaded["release"]["number"]) == ("nicer", 3)
    assert release["release"]["entry"]["name"] == "Support"
    assert [one["origin"] for one in releases["items"]] == ["reload", "update", "environment"]
    assert (back["release"]["number"], "name" in back["release"]["entry"]) == (4, False)
    assert [one["act"] for one in audit["items"]] == ["gateway_config.patch"]
    assert (facts["turn_id"], facts["state"]) == (turn, "completed")
    assert revoked == {"status": "revoked", "ids": []}
    assert {"instances", "streams", "pressure", "queue", "latency", "turns", "refused"} <= set(picture)

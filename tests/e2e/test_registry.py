"""The registry of bundles by its commands, on a whole system."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio
MINE = "mine@1.0.0"


def written(folder: Path, answer: str, bundle_id: str = MINE) -> Path:
    """A bundle that gives ``answer``."""
    folder.mkdir(exist_ok=True)
    (folder / "bundle.py").write_text(
        f"from kdcube.sdk import Bundle, Turn\n\nbundle = Bundle({bundle_id!r})\n\n\n"
        f"@bundle.on_message\nasync def answer(turn: Turn) -> None:\n    await turn.delta({answer!r})\n"
    )
    return folder


async def answer_of(client: Any, bundle_id: str) -> str:
    accepted = await client.sent(bundle_id=bundle_id)
    return "".join(event.text for event in await client.ended(accepted["task_id"]))


async def until_it_answers(stack: Any, client: Any, answer: str) -> None:
    """What is ready is active a moment later."""
    for _ in stack.attempts(f"it answers {answer}"):
        sent = await client.send(bundle_id=MINE)
        if sent.status_code == 202:
            events = await client.ended(sent.json()["task_id"])
            if "".join(event.text for event in events) == answer:
                return
        else:
            assert sent.json()["error"] == "bundle_preparing"


@pytest.mark.timeout(240)
async def test_by_commands(new_stack, connect, tmp_path):
    stack = new_stack("--proc", "2")
    client = connect(stack)
    key = stack.home / "admin-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    def told(*args: str, code: int = 0) -> str:
        done = stack.kdcube("bundles", *args)
        assert done.returncode == code, f"{args}\n{done.stdout}{done.stderr}{stack.logs()}"
        assert key.read_text() not in done.stdout + done.stderr
        return done.stderr if code else done.stdout

    folder = written(tmp_path / "mine", "one")
    added = told("add", MINE, "--path", str(folder), "--default", "--reason", "a trial")
    assert added.startswith(f"{MINE} release 1 runs ") and added.endswith("on 2 procs\n")
    assert await answer_of(client, MINE) == "one"
    assert "there is such a bundle" in told("add", MINE, "--path", str(folder), code=2).lower()

    written(folder, "two")
    assert json.loads(told("reload", MINE, "--json"))["release"]["number"] == 2
    assert await answer_of(client, MINE) == "two"

    (folder / "bundle.py").write_text("raise RuntimeError('not like this')\n")
    assert "not like this" in told("reload", MINE, code=1)
    assert await answer_of(client, MINE) == "two"

    other = written(tmp_path / "other", "three")
    told("update", MINE, "--path", str(other), "--set", "max_attempts=2")
    assert await answer_of(client, MINE) == "three"
    written(folder, "one")
    assert json.loads(told("rollback", MINE, "--json"))["release"]["entry"]["path"] == str(folder)
    assert await answer_of(client, MINE) == "one"

    listed = json.loads(told("list", "--json"))
    mine = next(item for item in listed["items"] if item["bundle_id"] == MINE)
    assert (mine["default"], mine["served"]["number"], len(mine["procs"])) == (True, 5, 2)
    assert {proc["number"] for proc in mine["procs"]} == {5}
    history = json.loads(told("history", MINE, "--json"))
    assert [(one["number"], one["origin"], one["state"]) for one in history] == [
        (5, "rollback", "ready"),
        (4, "update", "ready"),
        (3, "reload", "failed"),
        (2, "reload", "ready"),
        (1, "add", "ready"),
    ]
    assert "name another one" in told("remove", MINE, code=2)
    assert "is taken away" in told("remove", MINE, "--default", "echo@1.0.0")
    assert MINE not in told("list")
    assert "no such bundle" in told("reload", MINE, code=2)
    assert "relative" in told("add", "x", "--path", "somewhere", code=2)


def git(folder: Path, *args: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.timeout(240)
async def test_a_push_is_released(new_stack, connect, tmp_path):
    repository = written(tmp_path / "repository", "one")
    git(repository, "init", "-q")

    def commit() -> str:
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", "change")
        return git(repository, "rev-parse", "HEAD")

    first = commit()
    entry = {"git_url": f"file://{repository}", "git_ref": "main", "webhook_secret": "PUSH_SECRET"}
    stack = new_stack(
        AGENTIC_BUNDLES_JSON=json.dumps({"bundles": {MINE: entry}}),
        PUSH_SECRET="correct horse",
        KDCUBE_GIT_ALLOW_FILE="1",
    )
    client = connect(stack)

    def released() -> dict[str, Any]:
        """The last release, once it is settled."""
        for _ in stack.attempts("the release is settled"):
            done = stack.kdcube("bundles", "history", MINE, "--json")
            last = json.loads(done.stdout)[0]
            if last["state"] != "wanted":
                return last
        raise AssertionError

    assert (released()["revision"], released()["state"]) == (first, "ready")
    await until_it_answers(stack, client, "one")
    written(repository, "two")
    second = commit()
    content = json.dumps({"ref": "refs/heads/main", "after": second}).encode()
    signature = hmac.new(b"correct horse", content, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={signature}"}
    async with httpx.AsyncClient() as github:
        answer = await github.post(f"{stack.ingress[0]}/webhooks/bundles/{MINE}", content=content, headers=headers)
    assert answer.status_code == 202, answer.text
    last = released()
    assert (last["revision"], last["origin"], last["state"]) == (second, "webhook", "ready")
    await until_it_answers(stack, client, "two")
    back = stack.kdcube("bundles", "rollback", MINE)
    assert back.returncode == 0 and first[:12] in back.stdout, back.stderr
    assert await answer_of(client, MINE) == "one"

"""Starting, stopping and surviving, as somebody at a terminal sees it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from kdcube.local.process import birth_of

ALICE = {"Authorization": "Bearer token-alice"}
OWN_BUNDLE = """
from kdcube.sdk import Bundle, Turn

bundle = Bundle("loud@1.0.0")

@bundle.on_message
async def answer(turn: Turn) -> None:
    await turn.delta(turn.text.upper())
"""


def send(stack, url: str, turn_id: str, text: str = "one two three", payload: dict[str, Any] | None = None) -> None:
    """As clients do: told that the system is not ready for it (503), they send again with the same turn id."""
    message = {"message": {"text": text, "turn_id": turn_id, "payload": payload or {}}}
    answers = (httpx.post(f"{url}/chatbot/api/sse/chat", json=message, headers=ALICE) for _ in stack.attempts())
    answer = next(answer for answer in answers if answer.status_code != 503)
    assert answer.status_code == 202, f"{answer.text}\n{stack.logs()}"


@contextmanager
def stream(url: str, turn_id: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a turn, from its beginning."""
    with httpx.stream("GET", f"{url}/turns/{turn_id}/stream", headers=ALICE, timeout=30) as response:
        assert response.status_code == 200
        yield (json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:"))


def answer_of(url: str, turn_id: str) -> str:
    with stream(url, turn_id) as events:
        return "".join((event.get("delta") or {}).get("text", "") for event in events)


def test_a_message_comes_back_from_another_ingress_process(stack):
    send(stack, stack.ingress[0], "round-trip")
    assert answer_of(stack.ingress[1], "round-trip") == "one two three"


def test_status_tells_what_runs(stack):
    found = json.loads(stack.kdcube("status", "--json").stdout)
    assert found["home"] == str(stack.home)
    assert found["url"] == f"http://127.0.0.1:{stack.port}"
    assert [service["instance"] for service in found["services"]] == [
        "valkey",
        "postgres",
        "ingress-0",
        "ingress-1",
        "proc-0",
    ]
    for service in found["services"]:
        assert set(service) == {"name", "instance", "pid", "url", "live", "ready", "version", "config_checksum"}
        assert service["live"]
        assert service["ready"]
        assert birth_of(service["pid"])
    checksums = {service["config_checksum"] for service in found["services"] if service["name"] in ("ingress", "proc")}
    assert len(checksums) == 1
    assert None not in checksums
    assert [(bundle["id"], bundle["default"]) for bundle in found["bundles"]] == [
        ("docs@1.0.0", False),
        ("echo@1.0.0", True),
    ]
    assert set(found["bundles"][0]) == {"id", "version", "default", "host_pids"}


def test_the_password_of_postgres_is_shown_nowhere(stack):
    password = (stack.home / "postgres" / "password").read_text()
    shown = stack.kdcube("status", "--json").stdout + stack.kdcube("status").stdout + stack.kdcube("logs").stdout
    assert password not in shown
    assert password not in (stack.home / "state.json").read_text()


def test_the_schema_of_the_running_database_is_up_to_date(stack):
    assert stack.kdcube("db", "upgrade").stdout == "the schema is up to date\n"


def test_a_second_up_in_the_same_folder_is_refused_in_one_line(stack):
    done = stack.kdcube("up", "--detach")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{stack.home} is in use by another `kdcube up`" in done.stderr


@pytest.mark.parametrize("instance", ["valkey", "postgres", "ingress-0", "proc-0"])
def test_a_killed_service_comes_back_and_the_next_message_works(stack, instance):
    stack.kill(instance)
    stack.wait_back()
    send(stack, stack.ingress[0], f"after-{instance}")
    assert answer_of(stack.ingress[1], f"after-{instance}") == "one two three"


def test_conversations_are_there_after_a_restart_and_nothing_stays_behind(new_stack):
    stack = new_stack("--ingress", "1")
    send(stack, stack.ingress[0], "before")
    assert answer_of(stack.ingress[0], "before") == "one two three"
    stack.down()
    assert stack.kdcube("down").stdout == f"nothing runs in {stack.home}\n"
    stack.up(["--ingress", "1"])
    found = httpx.get(f"{stack.ingress[0]}/conversations", headers=ALICE).json()
    assert len(found["items"]) == 1


def test_after_kill_9_of_the_supervisor_the_next_up_takes_over(new_stack):
    stack = new_stack("--ingress", "1")
    before = [stack.state.supervisor.pid, *stack.pids.values(), *stack.host_pids()]
    os.kill(stack.state.supervisor.pid, signal.SIGKILL)
    stack.up(["--ingress", "1"])
    assert [pid for pid in before if birth_of(pid)] == []
    send(stack, stack.ingress[0], "after")
    assert answer_of(stack.ingress[0], "after") == "one two three"


def test_after_kill_9_of_the_supervisor_down_ends_what_is_left(new_stack):
    stack = new_stack("--ingress", "1")
    before = [stack.state.supervisor.pid, *stack.pids.values(), *stack.host_pids()]
    os.kill(stack.state.supervisor.pid, signal.SIGKILL)
    assert stack.kdcube("down").returncode == 0
    assert [pid for pid in before if birth_of(pid)] == []
    stack.up(["--ingress", "1"])


def test_own_servers_are_used_and_left_running(new_stack, valkey_server, valkey_url, postgres_server, database_url):
    stack = new_stack("--redis-url", valkey_url, "--database-url", database_url)
    assert list(stack.pids) == ["ingress-0", "ingress-1", "proc-0"]
    send(stack, stack.ingress[0], "own-servers")
    assert answer_of(stack.ingress[1], "own-servers") == "one two three"
    stack.down()
    assert valkey_server.running
    assert postgres_server.running
    assert not (stack.home / "postgres" / "data").exists()


def test_own_bundles_are_served_beside_echo(new_stack, tmp_path):
    (tmp_path / "bundle.py").write_text(OWN_BUNDLE)
    stack = new_stack("--ingress", "1", "--bundle", str(tmp_path), "--slots", "2")
    send(stack, stack.ingress[0], "own-bundle")
    assert answer_of(stack.ingress[0], "own-bundle") == "ONE TWO THREE"
    found = json.loads(stack.kdcube("status", "--json").stdout)
    assert {bundle["id"]: bundle["default"] for bundle in found["bundles"]} == {
        "loud@1.0.0": True,
        "docs@1.0.0": False,
        "echo@1.0.0": False,
    }


def test_ctrl_c_lets_a_running_turn_finish_and_leaves_nothing(new_stack):
    stack = new_stack("--ingress", "1")
    stack.down()
    with stack.in_foreground("up", "--ingress", "1") as terminal:
        for line in terminal.stdout:
            if "/turns/turn_1/stream" in line:  # the last of what it says
                break
        pids = list(stack.pids.values())
        payload = {"echo": {"deltas": 10, "delay_ms": 100}}
        send(stack, stack.ingress[0], "cut-off", payload=payload)
        with stream(stack.ingress[0], "cut-off") as events:
            assert next(events)["type"] == "chat.start"
            os.killpg(terminal.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        assert terminal.stdout.read() == "draining; once more ends it at once\n"
        assert terminal.wait() == 0
    assert [pid for pid in pids if birth_of(pid)] == []
    stack.up(["--ingress", "1"])
    with stream(stack.ingress[0], "cut-off") as events:
        assert [event["type"] for event in events][-1] == "chat.complete"

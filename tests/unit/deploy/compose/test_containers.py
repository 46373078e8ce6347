"""What Docker says of containers, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcube.deploy.compose.containers import containers_of, troubles
from kdcube.deploy.compose.program import Docker


def inspected(service: str, state: dict, *, restarts: int = 0, oneoff: str = "False") -> dict:
    labels = {"com.docker.compose.service": service, "com.docker.compose.oneoff": oneoff}
    return {
        "Name": f"/kdcube-{service}-1",
        "Config": {"Image": "image:1", "Labels": labels},
        "State": {"Pid": 0, "ExitCode": 0, **state},
        "RestartCount": restarts,
    }


CHECK = {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "Valkey does not\nanswer\n"}]}
WELL = {"Status": "running", "Health": {"Status": "healthy"}}


@pytest.mark.parametrize(
    ("found", "ready", "told", "trouble"),
    [
        (inspected("proc", WELL), True, "ready", None),
        (inspected("metrics", {"Status": "running"}), True, "ready", None),
        (inspected("proc", {"Status": "running", "Health": {"Status": "starting"}}), False, "starting", None),
        (
            inspected("proc", {"Status": "running", "Health": CHECK}),
            False,
            "unhealthy",
            "it runs, but is not well: Valkey does not answer",
        ),
        (
            inspected("proc", {"Status": "running", "Health": {"Status": "starting"}}, restarts=1),
            False,
            "starting",
            "it keeps ending (1 so far)",
        ),
        (inspected("proc", WELL, restarts=1), True, "ready", None),
        (inspected("db-upgrade", {"Status": "exited"}), True, "done", None),
        (inspected("db-upgrade", {"Status": "exited", "ExitCode": 1}), False, "exited", "it ended with exit code 1"),
        (inspected("proc", {"Status": "exited"}), False, "exited", "it has ended"),
        (
            inspected("proc", {"Status": "restarting", "ExitCode": 3}, restarts=7),
            False,
            "restarting",
            "it keeps ending (7 so far), with exit code 3",
        ),
    ],
)
def test_a_container_is_ready_or_it_is_told_why_not(tmp_path, found, ready, told, trouble):
    docker = answering(tmp_path, [found, inspected("run", {"Status": "exited", "ExitCode": 9}, oneoff="True")])
    (container,) = containers_of(docker, "kdcube-acme-support")
    assert (container.ready, container.told, container.trouble) == (ready, told, trouble)
    assert troubles([container]) == ([container] if trouble else [])


def answering(folder: Path, found: list[dict]) -> Docker:
    (folder / "inspected.json").write_text(json.dumps(found))
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\nif [ "$1" = ps ]; then echo one; else cat {folder}/inspected.json; fi\n')
    program.chmod(0o755)
    return Docker(str(program))


@pytest.mark.parametrize(
    ("found", "hopeless"),
    [
        (inspected("proc", {"Status": "running", "Health": {"Status": "starting"}}, restarts=1), False),
        (inspected("proc", {"Status": "restarting", "ExitCode": 1}, restarts=3), True),
        (inspected("proc", {"Status": "running", "Health": CHECK}), True),
        (inspected("db-upgrade", {"Status": "exited", "ExitCode": 1}), True),
        (inspected("proc", {"Status": "created"}), False),
        (inspected("proc", WELL, restarts=9), False),
    ],
)
def test_there_is_waiting_while_there_is_hope(tmp_path, found, hopeless):
    (container,) = containers_of(answering(tmp_path, [found]), "kdcube-acme-support")
    assert container.is_hopeless is hopeless

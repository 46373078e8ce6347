"""Logs are kept short and read together."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from kdcube.local.logs import followed_lines, logs_of, rotate, stored_lines


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for name in ("ingress-0", "ingress-1", "proc-0", "valkey"):
        (tmp_path / f"{name}.log").write_text(f"{name} one\n{name} two\n")
    return tmp_path


@pytest.mark.parametrize(
    ("service", "found"),
    [
        ("ingress", ["ingress-0", "ingress-1"]),
        ("ingress-1", ["ingress-1"]),
        ("valkey", ["valkey"]),
        (None, ["ingress-0", "ingress-1", "proc-0", "valkey"]),
        ("nothing", []),
    ],
)
def test_a_service_or_an_instance_is_chosen(logs, service, found):
    assert [log.stem for log in logs_of(logs, service)] == found


def test_a_long_log_moves_aside_and_its_writer_goes_on(logs):
    log = logs / "proc-0.log"
    with log.open("a") as writer:
        rotate(logs, max_bytes=5)
        writer.write("proc-0 three\n")
    assert [line for _, line in stored_lines([log])] == ["proc-0 one", "proc-0 two", "proc-0 three"]
    assert log.read_text() == "proc-0 three\n"


def test_a_short_log_stays(logs):
    rotate(logs, max_bytes=1000)
    assert not (logs / "proc-0.log.1").exists()


def test_following_shows_whole_lines_as_they_come_also_after_a_rotation(logs):
    log = logs / "proc-0.log"
    lines = followed_lines(logs, "proc")
    assert list(islice(lines, 2)) == [("proc-0", "proc-0 one"), ("proc-0", "proc-0 two")]
    with log.open("a") as writer:
        writer.write("half a li")
    (logs / "proc-1.log").write_text("a new instance\n")
    assert next(lines) == ("proc-1", "a new instance")
    with log.open("a") as writer:
        writer.write("ne\n")
    assert next(lines) == ("proc-0", "half a line")
    rotate(logs, max_bytes=20)
    with log.open("a") as writer:
        writer.write("after\n")
    assert next(lines) == ("proc-0", "after")

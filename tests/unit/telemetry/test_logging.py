from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from kdcube.telemetry.logging import bound, configure


@pytest.fixture
def lines():
    """Logs configured onto a stream, given as parsed lines; the process's own setting comes back afterwards."""
    root = logging.getLogger()
    before = (root.handlers, root.level)
    stream = io.StringIO()
    configure("ingress", "ingress-1", "info", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_a_line_says_who_when_and_what(lines):
    with bound(request_id="r-1"):
        structlog.get_logger("x").info("turn.started", turn_id="t-1", slots=3)
    structlog.get_logger("x").debug("not shown")
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "turn.started", "level": "info", "service": "ingress", "instance": "ingress-1",
        "request_id": "r-1", "turn_id": "t-1", "slots": 3,
    }  # fmt: skip


def test_the_standard_library_logs_in_the_same_shape(lines):
    with bound(request_id="r-2"):
        logging.getLogger("uvicorn.error").warning("listening on redis://:%s@host", "hunter2")
    [line] = lines()
    assert (line["event"], line["level"]) == ("listening on redis://[redacted]@host", "warning")
    assert (line["service"], line["request_id"]) == ("ingress", "r-2")


def test_an_exception_is_one_line_without_its_secrets(lines):
    try:
        raise ValueError("cannot reach postgresql://ann:hunter2@db/kdcube")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    [line] = lines()
    assert "ValueError" in line["exception"]
    assert "postgresql://[redacted]@db/kdcube" in line["exception"]


def test_the_loggers_of_modules_made_before_are_configured_too(lines):
    from kdcube.redis.connection import logger

    logger.warning("valkey.connection_lost", connection="c")
    assert lines()[0]["service"] == "ingress"


def test_no_value_can_break_a_line(lines):
    structlog.get_logger("x").info("odd", value=object, text="a\nb\ud800", data=b"\xff", nested={"a": {1, 2}})
    assert lines()[0]["text"] == "a\nb\ud800"
    assert sorted(lines()[0]["nested"]["a"]) == [1, 2]

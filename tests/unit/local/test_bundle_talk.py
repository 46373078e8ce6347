"""What the terminal of `kdcube up` hears of bundles."""

from __future__ import annotations

import asyncio
import json

import pytest

from kdcube.local.bundle_talk import relay, told_by

pytestmark = pytest.mark.anyio

LINE = {"bundle": "mine@1.0.0", "event": "bundle_output", "line": "hello", "pid": 7, "level": "info"}


def test_what_a_bundle_prints_is_told_with_its_name():
    assert told_by(json.dumps(LINE)) == "mine@1.0.0 | hello"


def test_each_line_of_a_traceback_has_the_name():
    failed = {"bundle": "mine@1.0.0", "event": "a bundle failed", "detail": "Traceback:\n  File\nKeyError: 1\n"}
    assert told_by(json.dumps(failed)) == "mine@1.0.0 | Traceback:\nmine@1.0.0 |   File\nmine@1.0.0 | KeyError: 1"


@pytest.mark.parametrize(
    "line", ["", "no JSON", "[]", '{"event": "proc.ready"}', '{"event": 5}', '{"event": "host_left"}']
)
def test_what_is_nothing_for_people(line):
    assert told_by(line) is None


async def test_only_what_comes_from_now_on_and_also_after_a_rotation(tmp_path):
    heard: asyncio.Queue[str] = asyncio.Queue()
    log = tmp_path / "proc-0.log"
    log.write_text(json.dumps({**LINE, "line": "of the run before"}) + "\n")
    relaying = asyncio.create_task(relay(tmp_path, heard.put_nowait))
    await asyncio.sleep(0)  # it has looked where the log ends
    with log.open("a") as file:
        file.write(json.dumps({**LINE, "line": "first"}) + "\n")
    assert await heard.get() == "mine@1.0.0 | first"
    log.write_text(json.dumps({**LINE, "line": "2"}) + "\n")
    assert await heard.get() == "mine@1.0.0 | 2"
    (tmp_path / "proc-1.log").write_text(json.dumps({**LINE, "line": "of another proc"}) + "\n")
    assert await heard.get() == "mine@1.0.0 | of another proc"
    relaying.cancel()
    await asyncio.wait({relaying})

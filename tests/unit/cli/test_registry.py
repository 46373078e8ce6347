"""What the commands of the registry ask of an installation, by their options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kdcube.cli.main import create_app

RELEASE = {"bundle_id": "a@1", "number": 2, "state": "ready", "origin": "admin", "author": "root", "entry": {}}
TOLD = {"release": RELEASE, "active": True, "procs": [], "changed": True}
LISTED = {"sequence": 1, "items": [{"bundle_id": "a@1", "default": False, "last": RELEASE}]}
GIT = {"git_url": "https://git.test/a", "git_ref": "main"}
DEFAULT = ("PATCH", "/admin/bundles", {"default_bundle_id": "a@1"})


class _Installation(BaseHTTPRequestHandler):
    """Agrees to everything, and keeps what it was asked."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = self.path.removeprefix("/chatbot/api")
        self.server.asked.append((self.command, path, body))  # type: ignore[attr-defined]
        answer = json.dumps(LISTED if self.command == "GET" else TOLD).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def installation() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Installation) as server:
        server.asked = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("add a@1 --path /srv/a", [("POST", "/admin/bundles", {"id": "a@1", "path": "/srv/a"})]),
        (
            "add a@1 --git-url https://git.test/a --git-ref main --git-subdir b --default --reason why",
            [("POST", "/admin/bundles?reason=why", {"id": "a@1", **GIT, "git_subdir": "b"}), DEFAULT],
        ),
        (
            "add a@1 --entry ENTRY --git-ref v2 --set config={\"n\":1} --set name=Ada",
            [("POST", "/admin/bundles", {"id": "a@1", **GIT, "git_ref": "v2", "config": {"n": 1}, "name": "Ada"})],
        ),
        ("update a@1 --git-ref v2", [("PATCH", "/admin/bundles/a@1", {"git_ref": "v2"})]),
        (
            "update a@1 --set idle_limit_s=2 --set name=null",
            [("PATCH", "/admin/bundles/a@1", {"idle_limit_s": 2, "name": None})],
        ),
        ("update a@1 --entry ENTRY", [("GET", "/admin/bundles", None), ("PUT", "/admin/bundles/a@1", GIT)]),
        ("update a@1 --default", [DEFAULT]),
        ("remove a@1 --default b@1", [("DELETE", "/admin/bundles/a@1?default=b@1", None)]),
        ("reload a@1 --reason news", [("POST", "/admin/bundles/a@1/reload?reason=news", None)]),
        ("rollback a@1", [("POST", "/admin/bundles/a@1/rollback", {})]),
        ("rollback a@1 --to 3", [("POST", "/admin/bundles/a@1/rollback", {"number": 3})]),
    ],
)  # fmt: skip
def test_what_is_sent(installation: Any, tmp_path: Path, command: str, asked: list[Any]) -> None:
    (tmp_path / "entry.yaml").write_text("git_url: https://git.test/a\ngit_ref: main\n")
    installation.asked.clear()
    where = ["--url", f"http://127.0.0.1:{installation.server_port}", "--token", "an-administrator"]
    words = command.replace("ENTRY", str(tmp_path / "entry.yaml")).split()
    create_app()(["bundles", *words, *where], exit_on_error=False, result_action="return_value")
    assert [(method, path.replace("%40", "@"), body) for method, path, body in installation.asked] == asked

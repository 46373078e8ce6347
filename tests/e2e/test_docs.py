"""The docs bundle in the whole system: over KDCube's own documents, and over a folder, with and without a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from tests.e2e.client import Event, answer, state
from tests.integration.docs.model_server import KEY, model_server, says

pytestmark = pytest.mark.anyio

DOCS = "docs@1.0.0"


def citations(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [citation for event in events if event.type == "turn.citations" for citation in event.data["data"]]


async def test_the_projects_documents_are_answered_about(stack, connect):
    client = connect(stack)
    turn = await client.sent("What is a fence?", bundle_id=DOCS)
    events = await client.ended(turn["task_id"])
    assert state(events) == "completed"
    assert answer(events).startswith("**fence**: a claim id")
    assert citations(events)[0]["uri"] == "docs/glossary.md#glossary"
    assert "Searching the documents" in [
        event.data["event"].get("title") for event in events if event.data.get("event")
    ]


async def test_any_folder_its_changes_and_a_model(new_stack, connect, tmp_path):
    folder = tmp_path / "parrots"
    folder.mkdir()
    (folder / "care.md").write_text("# Care\n\n## Feeding\n\nFeed the parrot at seven, with seeds.\n")
    async with model_server() as model:
        model.answers = [says("openai", "At seven [1].")]
        stack = new_stack(
            *("--ingress", "1", "--docs", str(folder)),
            KDCUBE_LLM_BASE_URL=model.url,
            KDCUBE_LLM_MODEL="model-1",
            KDCUBE_LLM_API_KEY=KEY,
        )
        client = connect(stack, "token-alice")
        first = await client.sent("When do I feed the parrot?")
        events = await client.ended(first["task_id"])
        assert answer(events) == "At seven [1]."
        assert [citation["uri"] for citation in citations(events)] == ["care.md#feeding"]
        (usage,) = [event.data["data"] for event in events if event.type == "turn.usage"]
        assert usage["model"] == "model-1"

        (folder / "flying.md").write_text("# Flying\n\nThe parrot flies after lunch.\n")
        for _ in stack.attempts("the new file is found"):  # it looks at the folder every 2 s at most
            turn = await client.sent("When does the parrot fly?", conversation_id=first["conversation_id"])
            events = await client.ended(turn["task_id"])
            if "flies after lunch" in str(model.requests[-1].body):
                break
        assert "At seven" in str(model.requests[-1].body["messages"]), "the conversation is told to the model"
    turn = await client.sent("When does the parrot fly?", bundle_id=DOCS)
    events = await client.ended(turn["task_id"])
    assert "gave no answer: the connection to it failed" in answer(events)
    assert "The parrot flies after lunch. [1]" in answer(events)
    shown = stack.kdcube("logs").stdout + stack.kdcube("status", "--json").stdout
    assert "the connection to it failed" in shown
    assert KEY not in shown
    assert {"docs", "supervisor"} <= {log.stem for log in stack.home.glob("logs/*.log")}


@pytest.mark.parametrize(
    ("path", "told"),
    [("nowhere", "there is no such folder"), ("file.md", "it is no folder")],
)
def test_a_folder_that_is_none_is_bad_input(tmp_path, path, told):
    (tmp_path / "file.md").touch()
    done = subprocess.run(
        [sys.executable, "-m", "kdcube.cli.main", "up", "--docs", path],
        env={"PATH": os.environ["PATH"], "KDCUBE_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (2, f"kdcube: --docs {path}: {told}\n")
    assert not (tmp_path / "home").exists()

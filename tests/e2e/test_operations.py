"""docs/operations.md: what it says to write and to type works, on a whole system."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page(new_stack, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    (library / "bundle.py").write_text(snippets("python")[0])
    stack = new_stack("--ingress", "1", "--bundle", str(library))
    commands = snippets("sh")[0].replace(":8010", f":{stack.port}").replace(":8020", f":{stack.port + 10}")
    separated = commands.replace("\ncurl", "\necho; echo ---; curl")
    done = subprocess.run(["bash", "-euc", separated], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, _, book, wrong, found, hours, turn, document = done.stdout.split("---\n") if done.stdout else [""] * 8
    assert json.loads(book) == {"book": {"title": "emma", "summary": "A heiress plays matchmaker."}}
    told = json.loads(wrong)
    assert (told["error"], told["field"]) == ("invalid_input", "data.limit")
    assert (found.count("event: item\n"), found.count("event: end\n")) == (2, 1)
    assert json.loads(hours) == {"opening_hours": "9 to 5"}
    assert json.loads(turn)["discuss"]["conversation_id"]
    assert len(json.loads(document)["paths"]) == 4
    check_what_the_document_promises(f"http://127.0.0.1:{stack.port + 10}", tmp_path)


def check_what_the_document_promises(proc: str, folder: Path) -> None:
    """By requests that are generated from it."""
    place = f"{proc}/chatbot/api/integrations/bundles/local/main/library@1.0.0/openapi.json"
    run = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", place, "--url", f"{proc}/chatbot/api"),
        *("--header", "Authorization: Bearer token-alice"),
        # No schema says that a message must not be empty, or what makes a key of it.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1", "--workers", "1"),
        *("--generation-database", "none", "--no-color"),
    ]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.anyio
async def test_the_tests_of_the_page():
    names: dict[str, object] = {}
    exec(snippets("python")[0], names)
    body = "async def check():\n" + "".join(f"    {line}\n" for line in snippets("python")[1].splitlines())
    exec(body, names)
    await names["check"]()

"""`kdcube bundles new` and `check`, as somebody at a terminal sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAD = "from kdcube.sdk import Bundle\n\nbundle = Bundle('mine@1.0.0')\n\n\n"
FINE = HEAD + "@bundle.on_message\nasync def answer(turn):\n    print('said by the handler')\n"


@pytest.fixture
def kdcube(tmp_path: Path):
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kdcube.cli.main", *args]
        env = {"PATH": os.environ["PATH"], "MY_KEY": "not for bundles"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def checked(kdcube, tmp_path: Path):
    """Checks a bundle of this code."""

    def check(code: str, **beside: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, text in {"bundle": code, **beside}.items():
            (folder / f"{name}.py").write_text(text)
        return kdcube("bundles", "check", "mine")

    return check


def test_a_new_bundle_is_fine_and_its_test_passes(kdcube, tmp_path):
    made = kdcube("bundles", "new", "my-agent")
    assert made.returncode == 0, made.stderr
    assert "kdcube up --bundle my-agent --watch" in made.stdout
    assert sorted(file.name for file in (tmp_path / "my-agent").iterdir()) == [
        "README.md",
        "bundle.py",
        "pytest.ini",
        "test_bundle.py",
    ]
    checked = kdcube("bundles", "check", "my-agent")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout == "my-agent@0.1.0 is fine\n  messages   answer (bundle.py, line 10)\n"
    tested = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "my-agent"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_new_bundle_keeps_the_rules_of_this_house(kdcube, tmp_path):
    kdcube("bundles", "new", "my-agent")
    rules = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check", *rules], ["format", "--check", *rules]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "my-agent/bundle.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
    typed = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--level",
            "warning",
            "--pythonpath",
            sys.executable,
            "my-agent/bundle.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert typed.returncode == 0, typed.stdout


def test_nothing_is_overwritten(kdcube, tmp_path):
    (tmp_path / "my-agent").mkdir()
    refused = kdcube("bundles", "new", "my-agent")
    assert refused.returncode == 2
    assert refused.stderr == f"kdcube: {tmp_path}/my-agent is there already, and nothing of it was changed\n"
    assert list((tmp_path / "my-agent").iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "My-Agent", "2fast", "a--b", "a_b", "a-", "", "x" * 64, "a\nb"])
def test_names_that_are_none(kdcube, tmp_path, name):
    refused = kdcube("bundles", "new", "--", name)
    assert refused.returncode == 2, refused.stdout
    assert "lower-case letters" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(kdcube, tmp_path):
    refused = kdcube("bundles", "new", "x" * 63)
    assert refused.returncode == 0
    (tmp_path / "nowhere").symlink_to("missing/folder")
    assert kdcube("bundles", "new", "nowhere").returncode == 2


def test_operations_and_attempts_are_told(checked):
    done = checked(
        FINE.replace("1.0.0'", "1.0.0', max_attempts=3")
        + "\n\n@bundle.operation('summarize')\nasync def shorten(ctx, data):\n    return data\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "mine@1.0.0 is fine",
        "  messages   answer (bundle.py, line 6)",
        "  operation  summarize: shorten (bundle.py, line 11)",
        "  attempts   at most 3 of a turn",
    ]


@pytest.mark.parametrize(
    ("code", "line", "what", "remedy"),
    [
        (HEAD + "def answer(:\n", 6, "SyntaxError: invalid syntax", "correct it"),
        (HEAD + "  x = 1\n", 6, "IndentationError: unexpected indent", "correct it"),
        ("import nowhere\n" + FINE, 1, "No module named 'nowhere'", "put nowhere.py beside bundle.py, or install"),
        ("import os\nkey = os.environ['MY_KEY']\n" + FINE, 2, "KeyError: 'MY_KEY'", "turn.secret("),
        (HEAD + "@bundle.on_message\ndef answer(turn): ...\n", 6, "must be an `async def` function", None),
        (HEAD + "@bundle.on_message\nasync def answer(): ...\n", 6, "but its parameters do not fit: too many", None),
        (HEAD + "@bundle.on_message\nasync def answer(turn, x): ...\n", 6, "missing a required argument: 'x'", None),
        (HEAD + "@bundle.operation('a')\nasync def a(): ...\n", 6, "it is called as a(ctx, data)", None),
        (HEAD + "@bundle.operation('a')\nasync def a(ctx, data, more): ...\n", 6, "it is called as a(ctx, data)", None),
        (HEAD + "@bundle.operation('a b')\nasync def a(ctx, data): ...\n", 6, "letters, digits, - and _", None),
        (FINE + "\n@bundle.on_message\nasync def again(turn): ...\n", 10, "keep one", None),
        (FINE.replace("mine@1.0.0", "not mine"), 3, "must be 1 to 128 characters", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_line_and_remedy(checked, tmp_path, code, line, what, remedy):
    done = checked(code)
    assert done.returncode == 1, done.stdout + done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/mine/bundle.py:{line}: "), done.stdout
    assert what in first
    assert remedy is None or remedy in rest[0]
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("x = 1\n", "defines no `bundle`"),
        ("bundle = 1\n", "`bundle` is a int"),
        (HEAD, "registers nothing"),
        ("import os\nos._exit(3)\n", "its process ended with code 3"),
        (FINE.replace("@1.0.0", ""), "the id 'mine' has no version\n    write Bundle(\"mine@1.0.0\")"),
    ],
)
def test_what_is_wrong_with_no_line_in_particular(checked, code, what):
    done = checked(code)
    assert done.returncode == 1
    assert what in done.stdout


def test_a_broken_file_that_only_a_turn_would_import_is_told_as_well(checked, tmp_path):
    done = checked(FINE, later="x = (\n")
    assert done.returncode == 1
    assert f"{tmp_path}/mine/later.py:1: SyntaxError: '(' was never closed" in done.stdout
    assert "mine@1.0.0 loads, but see above" in done.stdout


def test_what_the_code_prints_while_it_loads_is_shown_beside(checked):
    done = checked("print('while loading')\n" + FINE)
    assert done.returncode == 0
    assert "while loading" not in done.stdout
    assert done.stderr == "while loading\n"


def test_a_module_of_another_name(kdcube, tmp_path):
    place = tmp_path / "mine" / "agents"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "support.py").write_text(FINE.replace("bundle", "app"))
    done = kdcube("bundles", "check", "mine", "--module", "agents.support:app")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "mine@1.0.0 is fine"), done.stdout + done.stderr
    (place / "support.py").write_text("x = 1\n" + FINE.replace("@1.0.0", "").replace("bundle", "app"))
    done = kdcube("bundles", "check", "mine", "--module", "agents.support:app")
    assert f"{place}/support.py:4: the id 'mine' has no version" in done.stdout


def test_it_is_held_to_the_limits_that_proc_has(checked):
    threads = "for _ in range(1100):\n    threading.Thread(target=halt.wait, daemon=True).start()\nhalt.wait()\n"
    done = checked("import threading\nhalt = threading.Event()\n" + threads + FINE)
    assert done.returncode == 1
    assert "its process was ended while loading, over its process_limit: " in done.stdout


def test_a_path_that_is_none(kdcube):
    refused = kdcube("bundles", "check", "nowhere")
    assert refused.returncode == 2
    assert refused.stderr == "kdcube: nowhere does not exist: give the folder that holds bundle.py\n"


def test_json(kdcube, tmp_path):
    kdcube("bundles", "new", "my-agent")
    found = json.loads(kdcube("bundles", "check", "my-agent", "--json").stdout)
    assert found["problems"] == []
    assert found["bundle"]["message_handler"] == {
        "name": "answer",
        "file": f"{tmp_path}/my-agent/bundle.py",
        "line": 10,
    }
    (tmp_path / "my-agent" / "bundle.py").write_text("x = (")
    done = kdcube("bundles", "check", "my-agent", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"][0]["line"] == 1


def test_a_bundle_of_the_older_system_is_told_with_the_line_of_its_class(kdcube, tmp_path):
    (tmp_path / "old").mkdir()
    file = tmp_path / "old" / "entrypoint.py"
    file.write_text("from kdcube_ai_app.x import agentic_workflow\n\n@agentic_workflow(name='old')\nclass Old: ...\n")
    done = kdcube("bundles", "check", "old", "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["what"] == "a bundle of the older system: class Old under @agentic_workflow"
    assert (problem["file"], problem["line"]) == (str(file), 4)
    assert "write bundle.py" in problem["remedy"]

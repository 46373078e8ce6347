"""Commands while nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kdcube import __version__


def test_status_of_nothing(kdcube, home):
    assert kdcube("status").stdout == f"nothing runs in {home}\n"
    found = json.loads(kdcube("status", "--json").stdout)
    assert found == {"home": str(home), "url": None, "services": [], "bundles": []}


def test_down_of_nothing(kdcube, home):
    done = kdcube("down")
    assert (done.returncode, done.stdout) == (0, f"nothing runs in {home}\n")


def test_looking_makes_no_folder(kdcube, home):
    kdcube("status")
    kdcube("down")
    kdcube("logs")
    assert not home.exists()


def test_the_default_data_folder_is_in_the_working_directory(kdcube, tmp_path):
    assert kdcube("status", KDCUBE_HOME="").stdout == f"nothing runs in {tmp_path / '.kdcube'}\n"


def test_logs_are_shown_together_or_alone(kdcube, home):
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "proc-0.log").write_text("a\n")
    (home / "logs" / "valkey.log").write_text("b\n")
    assert kdcube("logs").stdout == "proc-0       a\nvalkey       b\n"
    assert kdcube("logs", "proc").stdout == "a\n"
    missing = kdcube("logs", "ingress")
    assert missing.returncode == 2
    assert missing.stderr.endswith("there are: proc-0, valkey\n")


def test_a_closed_pipe_ends_the_logs_quietly(kdcube, home):
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "proc-0.log").write_text("a\n" * 100_000)
    script = f"KDCUBE_HOME={home} {sys.executable} -m kdcube.cli.main logs | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a\n", "")


@pytest.mark.parametrize("command", ["config schema", "descriptor schema", "capacity scenario"])
def test_a_reader_that_has_enough_ends_any_command_quietly(command):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as stdout:
        program = [sys.executable, "-m", "kdcube.cli.main", *command.split()]
        done = subprocess.run(program, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_is_brought_up(kdcube, postgres_server, database_url):
    assert kdcube("db", "upgrade", DATABASE_URL=database_url).stdout == "the schema is up to date\n"
    empty = postgres_server.url
    done = kdcube("db", "upgrade", "--database-url", empty)
    assert done.returncode == 0
    assert done.stdout.startswith("applied 0001_")


def test_version(kdcube):
    assert kdcube("--version").stdout == f"{__version__}\n"


def test_help_imports_no_command():
    """So that it is fast: the services' libraries are imported by the commands that need them."""
    code = (
        "import sys, contextlib; from kdcube.cli.main import create_app\n"
        "with contextlib.suppress(SystemExit): create_app()(['--help'])\n"
        "print([name for name in sys.modules if name.startswith(('kdcube.local', 'pydantic', 'asyncpg', 'uvicorn'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"

"""`kdcube descriptor`, as somebody at a terminal sees it."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from kdcube.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden" / "descriptor"


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def kdcube(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, given: str | None = None) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kdcube", "descriptor", *args])
        if given is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        try:
            code = main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


def test_the_first_one_is_valid_with_its_secrets_and_a_bundle(kdcube, tmp_path):
    made = kdcube("init", "--tenant", "acme", "--project", "support")
    assert made.code == 0 and made.out.startswith("made kdcube.yaml, secrets/session, ")
    assert (tmp_path / "bundles" / "hello" / "bundle.py").is_file()
    for secret in ("session", "postgres_password", "valkey_password"):
        file = tmp_path / "secrets" / secret
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(file.read_text()) == 64
        assert file.read_text() not in made.out
    checked = kdcube("check")
    assert checked.code == 0 and "error" not in checked.out.partition("\n")[0]
    assert checked.out.startswith("kdcube.yaml is valid for compose: acme/support, gateway checksum ")
    assert "see --for ecs" in checked.out


def test_nothing_that_is_there_is_overwritten(kdcube, tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "session").write_text("mine")
    assert kdcube("init").code == 0
    assert (tmp_path / "secrets" / "session").read_text() == "mine"
    before = (tmp_path / "kdcube.yaml").read_text()
    again = kdcube("init")
    assert (again.code, again.err) == (2, "kdcube: kdcube.yaml exists already; remove it, or give another name\n")
    assert (tmp_path / "kdcube.yaml").read_text() == before


def test_what_is_wrong_is_told(kdcube, tmp_path):
    (tmp_path / "kdcube.yaml").write_text("version: 1\ntenant: acme\nedge: prxy\nsecrets: {session: hunter2}\n")
    ran = kdcube("check")
    assert ran.code == 2 and 'error: edge: is "prxy"; give one of proxy, alb-paths' in ran.out
    assert ran.err == "kdcube: kdcube.yaml is not valid: 3 errors\n" and "hunter2" not in ran.out
    facts = json.loads(kdcube("check", "--json").out)
    assert facts["valid"] is False and facts["fit"] == [] and len(facts["errors"]) == 3


def test_a_target_can_be_asked_for(kdcube):
    file = str(GOLDEN / "full.yaml")
    ran = kdcube("check", file)
    assert ran.code == 0 and "is valid for ecs" in ran.out and "error" not in ran.out.partition("\n")[0]
    ran = kdcube("check", file, "--for", "compose")
    assert ran.code == 2 and "error: [compose] edge.kind: is alb-paths" in ran.out
    assert kdcube("check", file, "--for", "compose", "--environment", "laptop").code == 0
    facts = json.loads(kdcube("check", file, "--json").out)
    assert facts["fit"] == ["ecs"] and facts["environments"] == {"staging": [], "laptop": []}
    assert {"targets": ["compose"], "check": "path_routing_is_of_aws"}.items() <= facts["errors"][0].items()


def test_environments_are_checked_with_the_rest(kdcube, tmp_path):
    text = (GOLDEN / "smallest.yaml").read_text() + "environments: {a: {edge: {hots: []}}, b: {}}\n"
    (tmp_path / "kdcube.yaml").write_text(text)
    ran = kdcube("check")
    assert ran.code == 2 and "error: in a: environments.a.edge.hots: unknown field; did you mean hosts?" in ran.out
    assert ran.err == "kdcube: kdcube.yaml is not valid in 1 environment: a\n"


def test_it_is_explained(kdcube):
    ran = kdcube("explain", "-", given=(GOLDEN / "proxy-edge.yaml").read_text())
    assert ran.code == 0 and ran.out.startswith("acme/support\n\nWhere people come in\n")
    assert "secrets.session <- sm:acme/kdcube#session" in ran.out
    assert "Secrets" in json.loads(kdcube("explain", str(GOLDEN / "full.yaml"), "--json").out)
    assert kdcube("explain", "-", given="version: 2").code == 2


def test_the_schema_is_printed_and_written(kdcube, tmp_path):
    printed = json.loads(kdcube("schema").out)
    jsonschema_rs.meta.validate(printed)
    assert kdcube("schema", "schema.json").code == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == printed
    assert kdcube("schema", "schema.json").code == 2


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_file_that_is_not_there_is_told_with_what_to_do(kdcube, command):
    ran = kdcube(command)
    assert (ran.code, "kdcube descriptor init" in ran.err) == (2, True)

"""``kdcube compose`` without Docker: what is rendered, what is refused, and what is told where Docker is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcube.cli.main import main
from kdcube.deploy.compose.program import project_of

SMALLEST = (Path(__file__).parents[2] / "golden" / "compose" / "smallest.yaml").read_text()


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["kdcube", "compose", *arguments])
        try:
            code = main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    (tmp_path / "kdcube.yaml").write_text(SMALLEST)
    return run


def test_what_is_rendered_is_beside_the_descriptor(run, tmp_path):
    code, out, _ = run("render")
    assert code == 0
    assert f"into {tmp_path}/compose" in out
    assert project_of(tmp_path / "compose") == "kdcube-acme-support"
    assert not (tmp_path / "compose" / "secrets").exists(), "it needs none"
    assert run("render", "--out", "elsewhere", "--subnet", "10.9.0.0/24")[0] == 0
    assert "10.9.0.2" in (tmp_path / "elsewhere" / "compose.yaml").read_text()


def test_what_compose_cannot_do_is_refused_as_a_whole(run, tmp_path):
    (tmp_path / "kdcube.yaml").write_text(SMALLEST + "data: {valkey: managed, postgres: managed}\n")
    code, _, told = run("render")
    assert code == 2
    assert "data.valkey.kind" in told
    assert "data.postgres.kind" in told
    assert not (tmp_path / "compose").exists()
    (tmp_path / "kdcube.yaml").write_text(SMALLEST + "servces: {}\n")
    assert run("render")[0] == 2


def test_a_network_is_checked(run):
    code, _, told = run("render", "--subnet", "10.9.0.0/30")
    assert (code, "10.9.0.0/24" in told) == (2, True)


def test_docker_is_missed_by_name(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, told = run("up")
    assert code == 1
    assert "apt-get install docker.io" in told


def test_what_was_not_rendered_has_no_status(run, tmp_path, monkeypatch):
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    code, _, told = run("status")
    assert (code, "nothing was rendered" in told) == (2, True)
    run("render")
    code, out, _ = run("status", "--json")
    assert code == 1
    assert json.loads(out) == {
        "project": "kdcube-acme-support",
        "folder": str(tmp_path / "compose"),
        "ready": False,
        "containers": [],
    }


def test_a_file_that_vouches_for_nobody_is_told(run, monkeypatch, capsys):
    for name in ("kdcube.yaml", "nowhere"):
        monkeypatch.setattr("sys.argv", ["kdcube", "chat", "--url", "https://localhost", "--ca", name, "hello"])
        assert main() == 2
        assert f"cannot read {name}" in capsys.readouterr().err

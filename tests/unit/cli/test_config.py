"""`kdcube config`, as somebody at a terminal sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from kdcube.cli.main import main
from kdcube.config.gateway import check_gateway_document

SCOPE = {"tenant": "acme", "project": "support"}
WRONG = {
    **SCOPE,
    "profile": "production",
    "limits": {"max_queue_size": "many", "proc": {"max_que_size": 5}},
    "backpressure": {"paid_pressure_threshold": 0.5},
}


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def kdcube(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    for name in ("GATEWAY_CONFIG_JSON", "GATEWAY_COMPONENT"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, **variables: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kdcube", "config", *args])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        try:
            code = main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def written(tmp_path):
    def write(document: object, name: str = "gateway.json") -> str:
        (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
        return name

    return write


def test_a_valid_file(kdcube, written):
    ran = kdcube("check", written(SCOPE))
    checksum = json.loads(kdcube("check", "gateway.json", "--json").out)["checksum"]
    assert ran.code == 0
    assert ran.out == f"gateway.json is valid: acme/support, development, checksum {checksum}\n"
    assert not ran.err


def test_everything_that_is_wrong_is_told(kdcube, written):
    ran = kdcube("check", written(WRONG))
    assert ran.code == 2
    assert ran.out.splitlines() == [
        "error: backpressure.paid_pressure_threshold: is 0.5, below registered_pressure_threshold, which is 0.75 by "
        "default; they must not fall in the order anonymous, registered, paid, hard limit",
        'error: limits.max_queue_size: is "many"; give a whole number from 0 to 10000000',
        "error: limits.proc.max_que_size: unknown field; did you mean max_queue_size?",
    ]
    assert ran.err == "kdcube: gateway.json is not valid: 3 errors\n"


def test_everything_that_is_wrong_as_json(kdcube, written):
    ran = kdcube("check", written(WRONG), "--json")
    assert ran.code == 2
    verdict = json.loads(ran.out)
    assert (verdict["valid"], verdict["checksum"], verdict["warnings"]) == (False, None, [])
    assert verdict["errors"][1] == {
        "path": "limits.max_queue_size",
        "message": 'is "many"; give a whole number from 0 to 10000000',
        "allowed": "a whole number from 0 to 10000000",
        "closest": None,
    }
    assert verdict["errors"][2]["closest"] == "max_queue_size"


def test_warnings_do_not_fail(kdcube, written):
    ran = kdcube("check", written({**SCOPE, "monitoring": {}}))
    assert ran.code == 0
    assert ran.out.startswith("warning: monitoring: means nothing here and is left out: ")


def test_the_variable_is_checked_where_no_file_is_given(kdcube):
    ran = kdcube("check", GATEWAY_CONFIG_JSON=json.dumps(SCOPE))
    assert (ran.code, ran.out.partition(":")[0]) == (0, "GATEWAY_CONFIG_JSON is valid")
    assert kdcube("check", GATEWAY_CONFIG_JSON="{").out.startswith("error: is no JSON: expecting property name")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("check",), "give a FILE, - for standard input, or set GATEWAY_CONFIG_JSON"),
        (("check", "missing.json"), "cannot read missing.json: No such file or directory"),
        (("show", "."), "cannot read .: Is a directory"),
        (("default", "--tenant", "a/b"), 'tenant: is "a/b"; it must be 1 to 63 characters'),
        (("schema", "missing/schema.json"), "cannot write missing/schema.json: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(kdcube, args, told):
    ran = kdcube(*args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"kdcube: {told}")
    assert ran.err.count("\n") == 1


def test_what_is_no_text_is_told(kdcube, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe{}")
    assert kdcube("check", "x").err == "kdcube: cannot read x: it is not UTF-8\n"
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"tenant": "a", "project": "b"}')
    assert kdcube("check", "x").code == 0
    (tmp_path / "x").write_bytes(b"[" * 10_000_000)
    assert kdcube("check", "x").out == "error: is larger than 262144 bytes\n"


def test_what_is_shown_says_where_it_comes_from(kdcube, written):
    document = {"tenant_id": "acme", "project": "support", "profile": "production"}
    document |= {"limits": {"proc": {"max_queue_size": 7}}, "rate_limits": {"anonymous": {"hourly": 90}}}
    ran = kdcube("show", written(document), "--component", "proc")
    assert ran.code == 0
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in ran.out.splitlines() if line.strip()}
    assert ran.out.startswith("gateway.json, as proc sees it\nchecksum ")
    assert shown["tenant"] == '"acme" given as tenant_id'
    assert shown["limits.max_queue_size"] == "7 given as limits.proc.max_queue_size"
    assert shown["rate_limits.anonymous.hourly"] == "90 given"
    assert shown["rate_limits.anonymous.burst"] == "10 profile production"
    assert shown["rate_limits.anonymous.burst_window"] == "60 default"
    both = kdcube("show", "gateway.json").out
    assert "limits.ingress.max_queue_size" in both and "limits.proc.max_queue_size" in both
    assert both.count("limits.max_page_items") == 1


def test_the_component_of_the_environment_is_shown(kdcube):
    ran = kdcube("show", GATEWAY_COMPONENT="processor")
    assert ran.out.startswith("GATEWAY_CONFIG_JSON is not set: the defaults, as proc sees it\n")
    assert kdcube("show", GATEWAY_COMPONENT="prok").err == (
        'kdcube: GATEWAY_COMPONENT: is "prok"; give one of ingress, proc\n'
    )


@pytest.mark.parametrize("component", [(), ("--component", "ingress")])
def test_what_is_shown_can_be_checked_again(kdcube, written, component):
    written({**SCOPE, "profile": "testing", "limits": {"proc": {"max_queue_size": 7}}})
    shown = json.loads(kdcube("show", "gateway.json", "--json", *component).out)
    again = json.loads(kdcube("show", written(shown["config"]), "--json", *component).out)
    assert again["config"] == shown["config"]
    assert (again["checksum"] == shown["checksum"]) is not bool(component)
    assert shown["from"]["profile"] == {"source": "given", "path": "profile"}


@pytest.mark.parametrize("profile", ["development", "production", "testing", "load_test"])
def test_the_default_document_is_what_runs_without_one(kdcube, profile):
    ran = kdcube("default", "gateway.json", "--profile", profile)
    assert (ran.code, ran.out) == (0, "")
    written = json.loads(Path("gateway.json").read_text())
    assert kdcube("default", "--profile", profile).out == Path("gateway.json").read_text()
    checked = check_gateway_document(written)
    plain = check_gateway_document({"tenant": "local", "project": "main", "profile": profile})
    assert checked.config == plain.config  # pyright: ignore[reportAttributeAccessIssue]


def test_nothing_that_exists_is_overwritten(kdcube, written):
    written("mine")
    for command in ("default", "schema"):
        assert kdcube(command, "gateway.json").err == (
            "kdcube: gateway.json exists already; remove it, or give another name\n"
        )
    assert Path("gateway.json").read_text() == "mine"


def test_the_schema_takes_the_default_document(kdcube):
    schema = json.loads(kdcube("schema").out)
    validator = jsonschema_rs.Draft202012Validator(schema)
    validator.validate(json.loads(kdcube("default").out))
    assert not validator.is_valid(WRONG)


def test_no_secret_is_shown(kdcube, written):
    document = {**SCOPE, "redis_url": "redis://:s3cret@h", "instance_id": "s3cret"}
    ran = [kdcube(command, written(document), *more) for command in ("show", "check") for more in ((), ("--json",))]
    ran += [kdcube("check", written({**document, "password": "s3cret"}))]
    ran += [kdcube("check", written('{"password": "s3cret'))]
    assert [one.code for one in ran] == [0, 0, 0, 0, 2, 2]
    assert all("s3cret" not in one.out + one.err for one in ran)


def test_standard_input_and_closed_pipes():
    environment = {"PATH": os.environ["PATH"]}
    command = f"{sys.executable} -m kdcube.cli.main config"
    script = f"echo '{json.dumps(SCOPE)}' | {command} check -; echo $?; {command} schema | head -n 1"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    verdict, code, first = done.stdout.splitlines()
    assert (verdict.partition(":")[0], code, first) == ("standard input is valid", "0", "{")
    assert done.stderr == ""

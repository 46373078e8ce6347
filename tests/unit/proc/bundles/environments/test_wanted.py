"""Which files decide. What is refused, and what they lead to: tests/integration/proc/bundles/test_environments.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcube.proc.bundles.environments import wanted as module
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.locked import requirements_without_ours, without_ours
from kdcube.proc.bundles.environments.wanted import Kind, check_python, logical_lines, wanted_environment

PROJECT = '[project]\nname = "a"\nversion = "1"\n'
HASHED = f"a==1 --hash=sha256:{'0' * 64}\n"
ALL = {"uv.lock": "version = 1", "pylock.toml": "packages = []", "requirements.txt": HASHED, "pyproject.toml": PROJECT}


@pytest.fixture
def find(tmp_path):
    def find(module: str | None = None, **files: str) -> Kind | None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        found = wanted_environment(str(tmp_path), module)
        return found and found.kind

    return find


def test_the_most_exact_one_decides(find, tmp_path):
    assert find(**ALL) is Kind.UV_LOCK
    for name, kind in (("uv.lock", Kind.PYLOCK), ("pylock.toml", Kind.HASHED), ("requirements.txt", Kind.PROJECT)):
        (tmp_path / name).unlink()
        assert find() is kind
    assert find(**{"requirements.txt": "a\n"}) is Kind.PROJECT
    assert find(**{"pyproject.toml": "[tool.ruff]\n"}) is Kind.REQUIREMENTS
    (tmp_path / "requirements.txt").unlink()
    assert find() is None
    assert wanted_environment(str(tmp_path / "pyproject.toml"), None) is None


def test_what_says_nothing_about_the_environment_changes_nothing(tmp_path):
    def digest(text: str) -> str:
        (tmp_path / "pyproject.toml").write_text(text)
        found = wanted_environment(str(tmp_path), None)
        assert found is not None
        return found.digest

    first = digest(PROJECT)
    assert digest(PROJECT.replace('"1"', '"2"') + "[tool.ruff]\nline-length = 99\n") == first
    assert digest(PROJECT + 'dependencies = ["b"]\n') != first


def test_one_of_several_bundles_in_a_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "requirements.txt").write_text("a\n")
    found = wanted_environment(str(tmp_path), "one.agent:bundle")
    assert found is not None and found.file == tmp_path / "one" / "requirements.txt"
    assert wanted_environment(str(tmp_path), "two") is None


def test_a_file_that_is_too_large_is_refused(find, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 10)
    with pytest.raises(EnvironmentNotBuilt, match="larger than 10 bytes"):
        find(**{"uv.lock": "x" * 11})


@pytest.mark.parametrize(
    "requires", ["", ">=3.11", ">=3.11,<4", "==3.*", "~=3.11", ">3", "!=3.10.*", "<=3.99", "~=3.0"]
)
def test_pythons_that_are_proc_s(requires):
    check_python(requires, Path("pyproject.toml"))


@pytest.mark.parametrize("requires", [">=4", "<3.11", "==3.10.*", ">=3.8,<3.10", "!=3.*", "~=3.10.0", "==2.7", "<3"])
def test_pythons_that_are_not(requires):
    with pytest.raises(EnvironmentNotBuilt, match="needs Python"):
        check_python(requires, Path("pyproject.toml"))


def test_lines_that_are_continued():
    text = b"# one\na==1 \\\n  --hash=x \\\n  --hash=y  # two\n\nb\n"
    assert list(logical_lines(text)) == [(2, "a==1   --hash=x   --hash=y"), (6, "b")]


def test_the_sdk_is_never_installed():
    assert (
        requirements_without_ours(b"a==1\nkdcube[all]==2 \\\n --hash=x\nkdcube-else==1\n") == b"a==1\nkdcube-else==1\n"
    )
    lock = b'packages = 1\n[[packages]]\nname = "kdcube"\nx = 1\n\n[[packages]]\nname = "kdcube-else"\n'
    assert without_ours(lock) == b'packages = 1\n[[packages]]\nname = "kdcube-else"\n'

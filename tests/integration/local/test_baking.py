"""The build context that `kdcube bundles bake` writes, from real repositories; what it serves is loaded from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.integration.proc.bundles.git_servers import Remote, git

from kdcube.cli.bundles_bake import bake
from kdcube.local.baking import CannotBake
from kdcube.proc.bundles.content import content_version
from kdcube.protocol.errors import InvalidInput
from kdcube.sdk.loading import load_bundle

CODE = """
from kdcube.sdk import Bundle
bundle = Bundle("support@2.0.0")

@bundle.on_message
async def answer(turn):
    await turn.delta("hello")
"""
RELEASE = """
release: r1
platform:
  image: registry.example.org/kdcube-chat-proc@sha256:DIGEST
bundles:
  items:
    - id: support@2.0.0
      git_url: URL
      git_ref: COMMIT
      git_subdir: agents/support
      secrets:
        KEY: env:SUPPORT_KEY
"""


class Baker:
    def __init__(self, remote: Remote, folder: Path) -> None:
        self.remote = remote
        self.file = folder / "release.yaml"
        self.out = folder / "baked"

    def commit(self, **files: str) -> str:
        named = {f"agents/support/{name.replace('__', '.')}": text for name, text in files.items()}
        return self.remote.commit({"agents/support/bundle.py": CODE, "elsewhere/x": "x", **named})

    def bake(self, commit: str, more: str = "") -> None:
        text = RELEASE.replace("DIGEST", "0" * 64).replace("URL", f"file://{self.remote.bare}")
        self.file.write_text(text.replace("COMMIT", commit) + more)
        bake(self.file, out=self.out)


@pytest.fixture
def baker(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCUBE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KDCUBE_GIT_ALLOW_FILE", "1")
    return Baker(Remote.make(tmp_path), tmp_path)


def test_what_is_baked_is_what_the_commit_holds_and_loads(baker, capsys):
    tool = baker.remote.work / "agents/support/tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    commit = baker.commit(notes__md="notes")
    baker.commit(notes__md="later")
    baker.bake(commit)
    out = baker.out
    assert {file.name for file in out.iterdir()} == {
        "Dockerfile",
        ".dockerignore",
        "bundles",
        "bundles.json",
        "release.json",
    }
    entry = json.loads((out / "bundles.json").read_text())["bundles"]["support@2.0.0"]
    assert entry["path"] == f"/bundles/support@2.0.0/{commit[:12]}"
    assert (entry["git_ref"], entry["secrets"]) == (commit, {"KEY": "env:SUPPORT_KEY"})
    place = out / entry["path"].lstrip("/")
    assert sorted(file.name for file in place.iterdir()) == ["bundle.py", "notes.md", "tool"]
    assert (place / "notes.md").read_text() == "notes"
    assert [oct((place / name).stat().st_mode & 0o777) for name in ("tool", "notes.md", ".")] == [
        "0o755",
        "0o644",
        "0o755",
    ]
    assert load_bundle(str(place), None, "support@2.0.0").id == "support@2.0.0"
    (facts,) = json.loads((out / "release.json").read_text())["bundles"]
    assert (facts["commit"], facts["version"]) == (commit, content_version(str(place), None))
    assert f"commit {commit[:12]}, version {facts['version']}" in capsys.readouterr().out


def test_one_that_was_written_before_is_replaced_and_nothing_else_is(baker):
    first, second = baker.commit(a="1"), baker.commit(a="2")
    baker.bake(first)
    baker.bake(second)
    assert [place.name for place in (baker.out / "bundles/support@2.0.0").iterdir()] == [second[:12]]
    with pytest.raises(CannotBake, match=r"not our ref|has no branch, tag or commit"):
        baker.bake("f" * 40)
    assert [place.name for place in (baker.out / "bundles/support@2.0.0").iterdir()] == [second[:12]]
    (baker.out / "release.json").unlink()
    with pytest.raises(InvalidInput, match="was not written by this"):
        baker.bake(first)
    assert not [name for name in os.listdir(baker.file.parent) if name.startswith(".baked")]


def test_what_is_plainly_a_secret_is_not_baked(baker):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"
    for name, text, told in ((".env", "KEY=hunter2", "credentials"), ("deploy", key, "a private key")):
        commit = baker.commit(**{name.replace(".", "__"): text})
        with pytest.raises(
            CannotBake, match=rf"support@2\.0\.0: '\.?{name.strip('.')}' is .*{told}.* grant it by ref"
        ) as error:
            baker.bake(commit)
        assert "hunter2" not in str(error.value)
        (baker.remote.work / "agents/support" / name).unlink()
    link = baker.remote.work / "agents/support/link"
    link.symlink_to("../../elsewhere/x")
    with pytest.raises(CannotBake, match="the link 'link' leads out of the bundle's folder"):
        baker.bake(baker.commit())


def test_what_is_not_pinned_is_refused_by_its_place(baker, tmp_path):
    commit = baker.commit()
    git(baker.remote.work, "push", "-q", str(baker.remote.bare), "HEAD:refs/heads/side")
    with pytest.raises(InvalidInput, match=r"release\.yaml: .*items\.0\.git_ref must be a full commit"):
        baker.bake("side")
    with pytest.raises(InvalidInput, match=r"bundles\.more: unknown field"):
        baker.bake(commit, more="  more: 1\n")
    with pytest.raises(InvalidInput, match=r"absent\.yaml does not exist"):
        bake(tmp_path / "absent.yaml")

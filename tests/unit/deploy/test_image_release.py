"""What an image with its bundles inside is made of: all pinned, nothing secret; its files as golden texts."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdcube.deploy.image_release import ImageRelease
from kdcube.deploy.render.image import Baked, render_context

GOLDEN = Path(__file__).parents[2] / "golden" / "bake"
COMMIT, OTHER = "1" * 39 + "a", "2" * 39 + "b"
DIGEST = "sha256:" + "0" * 63 + "a"
RELEASE = {
    "release_name": "prod-2026-02-22",
    "platform": {"image": f"registry.example.org/acme/kdcube-chat-proc:0.1.0@{DIGEST}"},
    "frontend": {"repo": "https://git.example.org/acme/ui.git", "ref": OTHER},
    "bundles": {
        "default_bundle_id": "support@2.0.0",
        "items": [
            {
                "id": "support@2.0.0",
                "name": "Support",
                "repo": "https://git.example.org/acme/bundles.git",
                "ref": COMMIT,
                "subdir": "support",
                "secrets": {"MODEL_KEY": "sm:acme/support/models#openai"},
                "config": {"model": "small"},
                "git_token": "env:CI_TOKEN",
            },
            {
                "id": "ops@1-3",
                "git_url": "git@git.example.org:acme/ops.git",
                "git_ref": OTHER,
                "module": "ops.entrypoint",
                "max_attempts": 2,
                "git_ssh_key": "file:ops",
            },
        ],
    },
}


def changed(path: str, value: object) -> dict:
    document: dict = copy.deepcopy(RELEASE)
    *parents, last = path.split(".")
    place = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "bundles.json", "release.json"])
def test_the_files_are_those_that_were_reviewed(name):
    release = ImageRelease.model_validate(RELEASE)
    baked = [Baked(entry, f"{place}" * 12) for place, entry in enumerate(release.bundles.items)]
    files = render_context(release, baked)
    assert files.keys() == {"Dockerfile", ".dockerignore", "bundles.json", "release.json"}
    assert files[name] == (GOLDEN / name.removeprefix(".")).read_text()
    assert "CI_TOKEN" not in files[name] and "file:ops" not in files[name]


def test_hadolint_finds_nothing():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", GOLDEN / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("platform.image", "registry.example.org/proc:0.1.0", "pinned by its digest"),
        ("platform.image", f"registry.example.org/a b@{DIGEST}", "pinned by its digest"),
        ("platform.image", f"registry.example.org/a\nRUN x@{DIGEST}", "pinned by its digest"),
        ("platform", {"repo": "kdcube-ai-app", "ref": "v0.3.2"}, "platform.image is missing: a tag or commit"),
        ("frontend.ref", "ui-v2026.02.22", "full commit of 40"),
        ("frontend", {"image": "ui:latest"}, "pinned by its digest"),
        ("frontend", {"repo": "https://git.example.org/ui.git"}, "an image, or a repo with its ref"),
        ("bundles.items.0.ref", "v2.0.0", r"items\.0\.git_ref must be a full commit"),
        ("bundles.items.1.git_ref", COMMIT[:12], r"items\.1\.git_ref must be a full commit"),
        ("bundles.items.0.ref", None, r"items\.0\.git_ref must be a full commit"),
        ("bundles.items.0.path", "/bundles/support", r"items\.0 must name git_url and git_ref, and no path"),
        ("bundles.items.1.id", "support@2.0.0", r"items\.0\.id is 'support@2\.0\.0', as of another"),
        ("bundles.items", [], "at least 1"),
        ("bundles.default_bundle_id", "other", "is not among the items"),
        ("bundles.items.0.config", {"models": [{"api_key": "hunter2"}]}, r"items\.0\.config\.models\.0\.api_key looks"),
        ("bundles.items.0.config", {"url": "https://u:hunter2@h"}, r"items\.0\.config\.url looks like a secret"),
        ("bundles.items.0.secrets", {"MODEL_KEY": "hunter2"}, "must be a reference, not the secret itself"),
        ("release_name", "a b", "match pattern"),
        ("release_name", 'a"\nRUN x', "match pattern"),
        ("more", 1, "Extra inputs"),
    ],
)
def test_what_is_not_pinned_or_is_a_secret_is_refused(path, value, told):
    with pytest.raises(ValidationError, match=told) as error:
        ImageRelease.model_validate(changed(path, value))
    assert "hunter2" not in "".join(detail["msg"] for detail in error.value.errors(include_input=False))

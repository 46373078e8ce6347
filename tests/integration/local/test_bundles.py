"""Which bundles are served, and which of them by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.local.bundles import BundleDoesNotLoad, assemble

pytestmark = pytest.mark.anyio

ECHO = "echo@1.0.0"
DOCS = BundleEntry(id="docs@1.0.0", path="/docs")


def folder(parent: Path, bundle_id: str, max_attempts: int = 1) -> Path:
    path = parent / bundle_id
    path.mkdir()
    (path / "bundle.py").write_text(
        "from kdcube.sdk import Bundle\n"
        "print('noise')\n"
        f"bundle = Bundle({bundle_id!r}, max_attempts={max_attempts})\n"
        "@bundle.on_message\n"
        "async def answer(turn): ...\n"
    )
    return path


async def test_docs_and_echo():
    found = await assemble(BundleRegistry(), [], DOCS)
    assert list(found.bundles) == [DOCS.id, ECHO]
    assert found.default_bundle_id == DOCS.id
    assert found.bundles[DOCS.id] == DOCS
    assert (Path(found.bundles[ECHO].path or "") / "bundle.py").is_file()


async def test_the_first_folder_is_the_default_and_says_what_it_allows(tmp_path):
    found = await assemble(BundleRegistry(), [folder(tmp_path, "one@1", 3), folder(tmp_path, "two@1")], DOCS)
    assert found.default_bundle_id == "one@1"
    assert set(found.bundles) == {DOCS.id, ECHO, "one@1", "two@1"}
    assert found.bundles["one@1"].max_attempts == 3


async def test_the_users_registry_goes_first(tmp_path):
    own = BundleEntry(id="one@1", path="/elsewhere", secrets=("MY_KEY",))
    registry = BundleRegistry(default_bundle_id="one@1", bundles={"one@1": own})
    found = await assemble(registry, [folder(tmp_path, "two@1")], DOCS)
    assert found.default_bundle_id == "one@1"
    assert found.bundles["one@1"] == own


async def test_two_folders_with_one_id_are_refused(tmp_path):
    first = folder(tmp_path, "one@1")
    with pytest.raises(BundleDoesNotLoad, match="same id"):
        await assemble(BundleRegistry(), [first, first], DOCS)


async def test_a_bundle_with_the_id_of_one_of_ours_takes_its_place(tmp_path):
    own = folder(tmp_path, ECHO)
    found = await assemble(BundleRegistry(), [own], DOCS)
    assert found.bundles[ECHO].path == str(own)
    assert found.default_bundle_id == ECHO

"""The documents that ``kdcube up`` answers questions about: which they are, and their index."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec
from pydantic import JsonValue

from kdcube.config.bundles import BundleEntry
from kdcube.docs.indexing.place import Built, Progress
from kdcube.docs.library import BuildFailed, run_build
from kdcube.docs.settings import Settings
from kdcube.local.home import Home
from kdcube.protocol.errors import InvalidInput

DOCS_ID = "docs@1.0.0"
GRANTED = ("KDCUBE_LLM_PROVIDER", "KDCUBE_LLM_BASE_URL", "KDCUBE_LLM_MODEL", "KDCUBE_LLM_API_KEY")
"""What the docs bundle is granted of the environment of ``kdcube up``."""

_PROJECT = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs", "examples")
_NAME = "the documentation of KDCube"


def check_folder(folder: Path) -> Path:
    """``folder``, absolute. Raises InvalidInput when there is none that can be read."""
    path = folder.absolute()
    if not path.is_dir():
        raise InvalidInput(
            "docs", f"--docs {folder}: {'it is no folder' if path.exists() else 'there is no such folder'}"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise InvalidInput("docs", f"--docs {folder}: it may not be read")
    return path


def docs_entry(folder: Path | None, home: Home) -> BundleEntry:
    """The docs bundle, over ``folder``; None means KDCube's own documents, of the checkout or else of the package."""
    package = Path(str(resources.files("kdcube")))
    include: tuple[str, ...] = ()
    if folder is not None:
        place, name = folder, f"“{folder.name}”"
    elif (package.parents[1] / "pyproject.toml").is_file() and (package.parents[1] / "docs").is_dir():
        place, name, include = package.parents[1], _NAME, _PROJECT
    else:
        place, name = package / "docs" / "project", _NAME
    config: dict[str, JsonValue] = {"folder": str(place), "include": [*include], "name": name, "cache": str(home.cache)}
    return BundleEntry(id=DOCS_ID, path=str(package / "docs"), max_attempts=2, secrets=GRANTED, config=config)


async def read_docs(
    entry: BundleEntry, home: Home, report: Callable[[str], None], watch: Callable[[Progress], None]
) -> None:
    """Brings the index up to date; what is left out is told in the log ``docs``. A host does the same when it must, so
    a failure here is only reported.
    """
    if "cache" not in entry.config:  # of the user's own registry: then each host keeps an index of its own
        return
    try:
        settings = msgspec.convert(entry.config, Settings)
    except msgspec.ValidationError as error:
        report(f"docs: the config of {entry.id}: {error}")
        return
    with (home.logs / "docs.log").open("ab") as log:
        try:
            built = await run_build(settings, watch, log.fileno())
        except BuildFailed as error:
            report(f"docs: {error} (kdcube logs docs)")
            return
    if line := told(built):
        report(line)


def told(built: Built) -> str:
    """One line; empty when there was nothing to do."""
    if not built.files:
        return "docs: there is nothing in the folder that can be read"
    if not built.read and not built.removed:
        return ""
    left_out = f", {built.left_out:,} left out (kdcube logs docs)" if built.left_out else ""
    return f"docs: read {built.read:,} of {built.files:,} files in {built.seconds:.1f} s{left_out}"

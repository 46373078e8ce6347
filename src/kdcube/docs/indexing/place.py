"""Where the index of a folder is kept, and what its builder leaves there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kdcube.docs.settings import Settings

VERSION = 1
"""To be raised with every change of the schema, or of what is read from files."""
MAX_DEATHS = 2
"""A file that has ended so many processes is left out."""


class Progress(msgspec.Struct, frozen=True):
    """How far a build is, and which file it reads."""

    done: int
    total: int
    path: str = ""
    deaths: int = 0
    """Of processes that read this file."""


class Built(msgspec.Struct, frozen=True):
    """What a build has done."""

    files: int = 0
    """In the folder, those that were left out when they were read included."""
    read: int = 0
    """Of them, in this build."""
    passages: int = 0
    """Of what was read."""
    removed: int = 0
    left_out: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of its own within the cache."""

    path: Path

    @property
    def index(self) -> Path:
        return self.path / "index.sqlite"

    @property
    def draft(self) -> Path:
        """Becomes the index when it is complete."""
        return self.path / "draft.sqlite"

    @property
    def lock(self) -> Path:
        """Held by the one builder."""
        return self.path / "lock"

    @property
    def progress(self) -> Path:
        """A ``Progress``, as long as a build runs; one that was left behind tells which file ended its builder."""
        return self.path / "progress.json"

    def read_progress(self) -> Progress | None:
        try:
            return msgspec.json.decode(self.progress.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError):  # it may be read while it is written
            return None


def place_of(settings: Settings) -> Place:
    """Of the index with these settings; others get another one."""
    digest = hashlib.sha256(signature_of(settings).encode()).hexdigest()[:16]
    return Place(Path(settings.cache) / f"docs-{digest}")


def signature_of(settings: Settings) -> str:
    """Whatever decides what an index holds."""
    return msgspec.json.encode([VERSION, settings.folder, settings.include, settings.limits]).decode()

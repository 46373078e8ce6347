"""Writes an index. The draft is private to its builder until it is put in place, so nothing here locks or waits."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from kdcube.docs.indexing.place import Place
from kdcube.docs.indexing.scan import FileState
from kdcube.docs.reading.passages import Passage

SEPARATOR = " › "


class IndexWriter:
    """Made by ``draft``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def digest(self, path: str) -> bytes | None:
        row = self._database.execute("SELECT digest FROM files WHERE path = ?", (path,)).fetchone()
        return row and row[0]

    def touch(self, path: str, state: FileState) -> None:
        """The file is the same but for its time."""
        self._database.execute("UPDATE files SET mtime_ns = ? WHERE path = ?", (state.mtime_ns, path))

    def remove(self, path: str) -> None:
        row = self._database.execute("SELECT id FROM files WHERE path = ?", (path,)).fetchone()
        if row is None:
            return
        self._database.execute(
            "INSERT INTO search (search, rowid, title, heading, body)"
            " SELECT 'delete', id, title, heading, body FROM passages WHERE file = ?",
            row,
        )
        self._database.execute("DELETE FROM passages WHERE file = ?", row)
        self._database.execute("DELETE FROM files WHERE id = ?", row)

    def add(self, path: str, state: FileState, digest: bytes, title: str, passages: Iterable[Passage]) -> int:
        """Returns how many passages it has."""
        file = self._file(path, state, digest, title, None)
        words = " ".join((title, *re.findall(r"[^\W_]+", path)))
        count = 0
        for passage in passages:
            count += 1
            row = (words, SEPARATOR.join(passage.headings), passage.text)
            added = self._database.execute(
                "INSERT INTO passages (file, title, heading, body, anchor) VALUES (?, ?, ?, ?, ?)",
                (file, *row, passage.anchor),
            )
            self._database.execute(
                "INSERT INTO search (rowid, title, heading, body) VALUES (?, ?, ?, ?)", (added.lastrowid, *row)
            )
        return count

    def leave_out(self, path: str, state: FileState, digest: bytes, reason: str) -> None:
        """It is remembered, so that it is not read again before it has changed."""
        self._file(path, state, digest, "", reason)

    def _file(self, path: str, state: FileState, digest: bytes, title: str, left_out: str | None) -> int | None:
        return self._database.execute(
            "INSERT INTO files (path, size, mtime_ns, digest, title, left_out) VALUES (?, ?, ?, ?, ?, ?)",
            (path, state.size, state.mtime_ns, digest, title, left_out),
        ).lastrowid

    def pack(self) -> None:
        """Makes a new index as small and fast as it gets."""
        self._database.execute("INSERT INTO search (search) VALUES ('optimize')")


@contextmanager
def draft(place: Place, signature: str) -> Generator[IndexWriter]:
    """A copy of the index, or a new one; it takes its place when the block is left without an exception.

    To be used under the lock of the place.
    """
    place.draft.unlink(missing_ok=True)
    new = not place.index.exists()
    if not new:
        shutil.copyfile(place.index, place.draft)
    database = sqlite3.connect(place.draft, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -65536")
        if new:
            database.executescript((resources.files("kdcube.docs.indexing") / "schema.sql").read_text())
        database.execute("BEGIN")
        if new:
            database.execute("INSERT INTO about VALUES (?)", (signature,))
        yield IndexWriter(database)
        database.execute("COMMIT")
    finally:
        database.close()
    _sync(place.draft)
    place.draft.replace(place.index)
    _sync(place.path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

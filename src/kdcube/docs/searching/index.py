"""The index as it is read. Its file never changes, so any number of readers share it without a lock."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kdcube.docs.indexing.scan import FileState

_COLUMNS = "p.id, f.path, f.title, p.title, p.heading, p.anchor, p.body"


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage as the index has it."""

    id: int
    path: str
    title: str
    """Of its document."""
    title_words: str
    """The title and the words of the path."""
    heading: str
    """From the top of the document down, with ' › ' between; empty before the first."""
    anchor: str
    text: str

    @property
    def own_heading(self) -> str:
        return self.heading.rpartition(" › ")[2]


class Index:
    """Made by ``open_index``; its methods may be called by any thread, one at a time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.passages: int = self._one("SELECT count(*) FROM passages")
        self.documents: int = self._one("SELECT count(*) FROM files WHERE left_out IS NULL")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def files(self) -> dict[str, FileState]:
        """Also those of which nothing could be read."""
        with self._lock:
            rows = self._database.execute("SELECT path, size, mtime_ns FROM files").fetchall()
        return {path: FileState(size, mtime_ns) for path, size, mtime_ns in rows}

    def titles(self, limit: int) -> list[tuple[str, str]]:
        """(path, title), those nearest to the top of the folder first."""
        query = (
            "SELECT path, title FROM files WHERE left_out IS NULL"
            " ORDER BY length(path) - length(replace(path, '/', '')), path LIMIT ?"
        )
        with self._lock:
            return self._database.execute(query, (limit,)).fetchall()

    def frequency(self, word: str) -> int:
        """In how many passages the word stands, in any form."""
        return self._one("SELECT count(*) FROM search WHERE search MATCH ?", quoted(word))

    def best(self, words: Sequence[str], limit: int) -> list[tuple[Passage, float]]:
        """Passages with any of the words, and their BM25 rank (more is better), best first."""
        query = (
            f"SELECT {_COLUMNS}, -s.rank FROM"  # noqa: S608 - a constant
            " (SELECT rowid, rank FROM search WHERE search MATCH ? AND rank MATCH 'bm25(2.0, 3.0, 1.0)'"
            " ORDER BY rank LIMIT ?) s"
            " JOIN passages p ON p.id = s.rowid JOIN files f ON f.id = p.file ORDER BY s.rank"
        )
        with self._lock:
            rows = self._database.execute(query, (" OR ".join(map(quoted, words)), limit)).fetchall()
        return [(Passage(*row[:-1]), row[-1]) for row in rows]

    def _one(self, query: str, *values: object) -> int:
        with self._lock:
            return self._database.execute(query, values).fetchone()[0]


def quoted(word: str) -> str:
    """A word for MATCH: no operator, whatever it says."""
    return '"' + word.replace('"', '""') + '"'


def open_index(path: Path) -> Index:
    """Raises sqlite3.Error when there is none."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return Index(sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None))

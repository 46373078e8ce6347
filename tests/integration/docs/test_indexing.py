"""The index of a folder: what it takes, what it leaves out, how it follows changes, how processes share it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest
from tests.integration.docs.conftest import CORPUS

from kdcube.docs import library
from kdcube.docs.indexing.place import Built, Progress, place_of
from kdcube.docs.library import BuildFailed, Building, Library, Ready, run_build
from kdcube.docs.searching.index import open_index
from kdcube.docs.settings import Limits, Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(config) -> Settings:
    return msgspec.convert(config, Settings)


@pytest.fixture
def build(settings: Settings, tmp_path: Path):
    """Runs a build and gives what it did, and what it logged."""

    async def built(**changes) -> tuple[Built, str]:
        log = tmp_path / "log"
        with log.open("wb") as file:
            done = await run_build(msgspec.structs.replace(settings, **changes), stderr=file.fileno())
        return done, log.read_text()

    return built


def paths(settings: Settings) -> list[str]:
    """The files of which something is searched."""
    with open_index(place_of(settings).index) as index:
        return sorted(path for path, _ in index.titles(1000))


def found(settings: Settings, word: str) -> list[str]:
    with open_index(place_of(settings).index) as index:
        return [passage.path for passage, _ in index.best([word], 10)]


async def test_changes_are_followed(settings, folder, build):
    (folder / "a.md").write_text("# One\n\nalpha")
    (folder / "b.txt").write_text("beta")
    assert (await build())[0].read == 2
    assert (await build())[0].read == 0
    (folder / "a.md").write_text("# One\n\ngamma delta")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.md").write_text("epsilon")
    (folder / "b.txt").unlink()
    done, _ = await build()
    assert (done.files, done.read, done.removed) == (2, 2, 1)
    assert paths(settings) == ["a.md", "sub/c.md"]
    assert [found(settings, word) for word in ("alpha", "beta", "gamma", "epsilon")] == [[], [], ["a.md"], ["sub/c.md"]]


async def test_a_file_that_was_only_touched_is_not_parsed_again(settings, folder, build):
    (folder / "a.md").write_text("alpha")
    await build()
    os.utime(folder / "a.md", ns=(1, 1))
    assert (await build())[0].passages == 0
    assert found(settings, "alpha") == ["a.md"]
    assert (await build())[0].read == 0


async def test_hostile_and_broken_files_are_left_out_with_a_line(settings, folder, build, tmp_path):
    (folder / "good.md").write_text("# Good\n\nalpha")
    (folder / "latin.txt").write_bytes("überall grün äöü".encode("cp1252"))
    (folder / "bad-bytes.md").write_bytes(b"mostly fine text " * 20 + b"\xff")
    (folder / "binary.md").write_bytes(b"\x00\x01\x02" * 100)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\ngarbage")
    (folder / "empty.pdf").write_bytes(b"")
    (folder / "empty.md").write_bytes(b"")
    (folder / "encrypted.pdf").write_bytes((Path(__file__).parent / "encrypted.pdf").read_bytes())
    (folder / "huge.txt").write_bytes(b"word " * 80_000)
    (folder / "nested.html").write_text("<div>" * 20_000 + "deep" + "</div>" * 20_000)
    (folder / "quotes.md").write_text(">" * 5_000 + " deep\n" + "- " * 5_000 + "deeper")
    (folder / "controls.md").write_text("bell\x07 \x1b[31mred\u0085 \u202eend")
    os.mkfifo(folder / "pipe.md")
    (tmp_path / "outside.md").write_text("secret")
    (folder / "link.md").symlink_to(tmp_path / "outside.md")
    (folder / "dangling.md").symlink_to(tmp_path / "nowhere.md")
    (folder / "folder-link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    (folder / "inside.md").symlink_to(folder / "good.md")
    (folder / ".hidden.md").write_text("hidden")
    Path(os.fsdecode(os.fsencode(folder) + b"/name-\xff.md")).write_text("name")
    deep = folder.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "deep.md").write_text("too deep")
    (folder / "program.py").write_text("not a document")
    _, log = await build(limits=Limits(file_bytes=4_000_000, file_chars=300_000))
    settings = msgspec.structs.replace(settings, limits=Limits(file_bytes=4_000_000, file_chars=300_000))
    assert paths(settings) == [
        *("bad-bytes.md", "controls.md", "empty.md", "good.md", "inside.md", "latin.txt", "nested.html", "quotes.md")
    ]
    for line in (
        "binary.md: it is binary",
        "broken.pdf: broken PDF",
        "empty.pdf: broken PDF",
        "encrypted.pdf: it is encrypted",
        "huge.txt: its text has",
        "pipe.md: it is no regular file",
        "link.md: it is a link that leaves the folder",
        "dangling.md: No such file",
        "name-?.md: its name is not UTF-8",
        "it is deeper than 32 folders",
    ):
        assert f"docs: left out {line}" in log or line in log, line
    assert "outside" not in log
    assert found(settings, "secret") == []
    assert found(settings, "überall") == ["latin.txt"]
    assert sorted(found(settings, "deep")) == ["nested.html", "quotes.md"]


async def test_limits_of_files_and_of_their_size(folder, build):
    for number in range(5):
        (folder / f"{number}.md").write_text("text " * number)
    done, log = await build(limits=Limits(files=3, file_bytes=8))
    assert done.files == 2
    assert "2.md: it has 10 bytes, over the limit of 8" in log
    done, log = await build(limits=Limits(files=3))
    assert done.files == 3
    assert "there are more than 3 files" in log


async def test_a_file_that_ends_its_reader_is_left_out_in_the_end(settings, folder, build):
    """As if the process had been killed while it read the file, twice."""
    (folder / "a.md").write_text("alpha")
    (folder / "poison.md").write_text("beta")
    place = place_of(settings)
    place.path.mkdir(parents=True)
    place.progress.write_bytes(msgspec.json.encode(Progress(1, 2, "poison.md", deaths=1)))
    done, log = await build()
    assert "poison.md: reading it ended the process, or took too long" in log
    assert done.left_out == 1
    assert paths(settings) == ["a.md"]
    assert not place.progress.exists()
    assert (await build())[0].read == 0
    (folder / "poison.md").write_text("harmless now")
    await build()
    assert paths(settings) == ["a.md", "poison.md"]


async def test_a_reader_that_does_not_get_on_is_ended(settings, folder, build, monkeypatch):
    """What it reads is what another process left; that one holds the lock, and this one waits for it."""
    monkeypatch.setattr(library, "_MAX_PROCESSES", 2)
    (folder / "a.md").write_text("alpha")
    place = place_of(msgspec.structs.replace(settings, limits=Limits(file_s=0.1)))
    place.path.mkdir(parents=True)
    place.progress.write_bytes(msgspec.json.encode(Progress(0, 1, "a.md")))
    with place.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildFailed, match="has ended 2 processes"):
            await build(limits=Limits(file_s=0.1))
    assert not place.index.exists()


async def test_processes_that_share_a_cache_build_once(settings):
    shared = msgspec.structs.replace(settings, folder=str(CORPUS))
    done = await asyncio.gather(*(run_build(shared) for _ in range(3)))
    assert sorted(built.read for built in done) == [0, 0, 10]
    assert len(paths(shared)) == 10


async def test_a_build_that_is_ended_leaves_the_index_as_it_was(settings, folder, build):
    (folder / "a.md").write_text("alpha")
    await build()
    place = place_of(settings)
    before = place.index.stat()
    place.draft.write_bytes(b"half of an index")
    (folder / "b.md").write_text("beta")
    assert place.index.stat().st_ino == before.st_ino
    await build()
    assert paths(settings) == ["a.md", "b.md"]
    assert not place.draft.exists()


async def test_a_broken_index_is_made_anew(settings, folder, build):
    (folder / "a.md").write_text("alpha")
    await build()
    place_of(settings).index.write_bytes(b"SQLite format 3\0" + b"broken" * 1000)
    shelf = Library(settings)
    while not isinstance(state := await shelf.current(), Ready):
        pass
    assert [passage.path for passage, _ in state.index.best(["alpha"], 5)] == ["a.md"]
    await shelf.close()


async def test_a_library_follows_its_folder(settings, folder):
    (folder / "a.md").write_text("alpha")
    now = [100.0]
    shelf = Library(settings, clock=lambda: now[0])
    while not isinstance(state := await shelf.current(), Ready):
        assert isinstance(state, Building)
    assert [passage.path for passage, _ in state.index.best(["alpha"], 5)] == ["a.md"]
    old = state.index
    (folder / "b.md").write_text("beta")
    assert (await ready(shelf)).index is old, "it has just looked"
    now[0] += 60
    while (state := await ready(shelf)).index is old:
        assert state.behind
    assert [passage.path for passage, _ in state.index.best(["beta"], 5)] == ["b.md"]
    assert [passage.path for passage, _ in old.best(["alpha"], 5)] == ["a.md"], "who has the old one goes on with it"
    await shelf.close()
    with pytest.raises(sqlite3.ProgrammingError):
        state.index.files()


async def ready(shelf: Library) -> Ready:
    state = await shelf.current()
    assert isinstance(state, Ready)
    return state

from __future__ import annotations

import stat

from kdcube.cli.chat.memory import Memory


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_session_is_remembered_for_its_installation_alone(tmp_path):
    memory = Memory(tmp_path / "state" / "kdcube")
    assert memory.session_id("http://a") is None
    memory.keep_session("http://a", "one")
    memory.keep_session("http://b", "two")
    memory.keep_session("http://a", "three")
    assert (memory.session_id("http://a"), memory.session_id("http://b")) == ("three", "two")


def test_only_the_owner_can_read_it(tmp_path):
    memory = Memory(tmp_path / "kdcube")
    memory.keep_session("http://a", "one")
    history = memory.input_history()
    assert history is not None
    assert {mode(path) for path in (tmp_path / "kdcube").iterdir()} == {0o600}
    assert mode(tmp_path / "kdcube") == 0o700


def test_what_cannot_be_read_or_written_is_as_good_as_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "kdcube")
    memory.keep_session("http://a", "one")
    assert memory.session_id("http://a") is None
    assert memory.input_history() is None
    folder = tmp_path / "kdcube"
    folder.mkdir()
    (folder / "sessions.json").write_text("{oops")
    Memory(folder).keep_session("http://a", "one")
    assert Memory(folder).session_id("http://a") == "one"

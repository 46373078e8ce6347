"""The folder of Lua scripts: each says what it takes and gives, and each can be put together."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from kdcube.redis.scripts import Script

LUA = resources.files("kdcube.redis") / "lua"


def names() -> list[str]:
    return sorted(file.name for file in LUA.iterdir() if file.name.endswith(".lua"))


def test_each_script_states_its_keys_arguments_and_returns():
    for name in names():
        if not name.startswith("_"):
            header = [line for line in (LUA / name).read_text().splitlines() if line.startswith("-- ")]
            for part in ("-- KEYS", "-- ARGV", "-- Returns"):
                assert any(line.startswith(part) for line in header), f"{name} has no line '{part}'"


def test_no_script_builds_the_name_of_a_key():
    """Keys are declared, whatever the cluster; channels are no keys."""
    for name in names():
        for call in re.finditer(r"redis\.call\(\s*'(\w+)',\s*([^,)]+)", (LUA / name).read_text()):
            assert call[1] == "PUBLISH" or ".." not in call[2], f"{name}: {call[0]}"


def test_each_script_finds_what_it_includes():
    for name in names():
        assert "-- include:" not in Script(name.removesuffix(".lua")).text


def test_a_shared_file_stands_where_it_is_included(tmp_path):
    (tmp_path / "_one.lua").write_text("-- include: two\nlocal one = two\n")
    (tmp_path / "_two.lua").write_text("local two = 2\n")
    (tmp_path / "main.lua").write_text("-- KEYS: none\n-- include: one\nreturn one\n")
    script = Script("main", folder=tmp_path)
    assert script.text == "-- KEYS: none\nlocal two = 2\nlocal one = two\nreturn one\n"
    assert len(script.sha) == 40


def test_a_missing_script_is_noticed_at_its_first_use(tmp_path):
    script = Script("absent", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        _ = script.text

"""YAML of one meaning."""

from __future__ import annotations

import json

import pytest

from kdcube.config.bundles import read_bundles
from kdcube.config.documents import UnreadableDocument
from kdcube.config.environment import Environment
from kdcube.config.yaml_files import json_of
from kdcube.protocol.errors import ConfigurationError

FILE = """
default_bundle_id: a@1
bundles:
  a@1:
    repo: https://git.test/a
    ref: 1.10        # a tag, and no number
    subdir: support
    config: {on: yes, since: 2024-01-02, sizes: [1, 2.5, 1e3, 010], nothing: null, also:}
  b: {path: b}
"""


def test_words_stay_words():
    config = json.loads(json_of(FILE))["bundles"]["a@1"]["config"]
    assert config == {
        "on": "yes", "since": "2024-01-02", "sizes": [1, 2.5, 1000.0, "010"], "nothing": None, "also": None,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_registry_in_yaml(tmp_path, suffix):
    file = tmp_path / f"registry.{suffix}"
    file.write_text(FILE.replace("1.10", "'1.10'"))
    registry = read_bundles(Environment({"AGENTIC_BUNDLES_JSON": str(file), "AGENTIC_BUNDLES_ROOT": "/bundles"}))
    entry = registry.bundles["a@1"]
    assert (entry.git_url, entry.git_ref, entry.git_subdir) == ("https://git.test/a", "1.10", "support")
    assert (registry.default_bundle_id, registry.bundles["b"].path) == ("a@1", "/bundles/b")


def test_bundles_yaml_in_the_root_is_the_registry_where_no_other_is_named(tmp_path):
    (tmp_path / "bundles.yaml").write_text("bundles: {a: {path: a}}")
    named = {"AGENTIC_BUNDLES_ROOT": str(tmp_path)}
    assert read_bundles(Environment(named)).bundles["a"].path == str(tmp_path / "a")
    other = {**named, "AGENTIC_BUNDLES_JSON": '{"bundles": {"b": {"path": "b"}}}'}
    assert list(read_bundles(Environment(other)).bundles) == ["b"]
    (tmp_path / "bundles.yaml").write_text("bundles: {a: {pth: hunter2}}")
    with pytest.raises(ConfigurationError, match=r"AGENTIC_BUNDLES_ROOT: bundles\.a\.pth: unknown field") as caught:
        read_bundles(Environment(named))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "a is given twice in the same object at line 2, column 1"),
        ("a: &x [1]\nb: *x", "aliases are not taken at line 2"),
        ("1: a", "a key is no text"),
        ("a: [", "is no YAML"),
        ("a: 1\n---\nb: 2", "is no YAML"),
        ("a: !!python/object/apply:os.system [id]", "is no YAML"),
        ("a: !!binary aGk=", "a value that JSON has not"),
        ("a: \x07", "a character that is none"),
        ("[" * 5_000, "is nested too deeply"),
    ],
)
def test_what_is_not_taken(text, told):
    with pytest.raises(UnreadableDocument, match=told):
        json_of(text)

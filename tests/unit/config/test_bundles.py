from __future__ import annotations

import json

import pytest

from kdcube.config.bundles import read_bundles
from kdcube.config.environment import Environment
from kdcube.protocol.errors import ConfigurationError


def read(document, **variables):
    return read_bundles(Environment({"AGENTIC_BUNDLES_JSON": json.dumps(document), **variables}))


def test_none_are_served_without_it():
    assert read_bundles(Environment({})).bundles == {}


def test_defaults_and_both_spellings_of_git():
    registry = read(
        {
            "default_bundle_id": "a@1",
            "bundles": {
                "a@1": {"id": "a@1", "path": "/b/a", "git_url": "https://g/a", "git_ref": "v1", "git_subdir": "s"},
                "b": {"path": "/b/b", "module": "b.entry", "repo": "https://g/b", "ref": "v2", "subdir": "t"},
            },
        }
    )
    a, b = registry.bundles["a@1"], registry.bundles["b"]
    assert (a.git_url, a.git_ref, a.git_subdir) == ("https://g/a", "v1", "s")
    assert (b.id, b.git_url, b.git_ref, b.git_subdir) == ("b", "https://g/b", "v2", "t")
    assert (a.max_attempts, a.idle_limit_s, a.wall_limit_s, a.secrets, a.config) == (1, 300, 1800, (), {})


def test_a_single_bundle_is_the_default_and_of_several_none_is():
    assert read({"bundles": {"a": {"path": "/a"}}}).default_bundle_id == "a"
    assert read({"bundles": {"a": {"path": "/a"}, "b": {"path": "/b"}}}).default_bundle_id is None


def test_from_a_file(tmp_path):
    file = tmp_path / "bundles.json"
    file.write_text('{"bundles": {"a": {"path": "/a", "secrets": ["MODEL_KEY"]}}}')
    registry = read_bundles(Environment({"AGENTIC_BUNDLES_JSON": str(file)}))
    assert registry.secret_variables == {"MODEL_KEY"}
    with pytest.raises(ConfigurationError, match=r"cannot read .*absent"):
        read_bundles(Environment({"AGENTIC_BUNDLES_JSON": str(tmp_path / "absent")}))
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_bundles(Environment({"AGENTIC_BUNDLES_JSON": str(file)}))


def test_paths_are_relative_to_the_root():
    document = {"bundles": {"a": {"path": "a"}, "b": {"path": "/elsewhere/b"}}}
    bundles = read(document, AGENTIC_BUNDLES_ROOT="/bundles").bundles
    assert (bundles["a"].path, bundles["b"].path) == ("/bundles/a", "/elsewhere/b")
    with pytest.raises(ConfigurationError, match=r"bundles\.a\.path is 'a'"):
        read(document)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"bundles": {"a": {}}}, "give path or git_url"),
        ({"bundles": {"a": {"git_url": "ext::sh -c x"}}}, r"bundles\.a: git_url must be a URL"),
        ({"bundles": {"a": {"repo": "https://h/a", "ref": "--x"}}}, r"bundles\.a: git_ref must be"),
        ({"bundles": {"a": {"repo": "https://h/a", "subdir": "../x"}}}, r"bundles\.a: git_subdir must be"),
        ({"bundles": {"a": {"path": "/a", "pth": 1}}}, r"bundles\.a\.pth: unknown field"),
        ({"bundles": {"a": {"path": "/a", "id": "b"}}}, "the same as its key"),
        ({"bundles": {"a b": {"path": "/a"}}}, "must be 1 to 128"),
        ({"bundles": {"a": {"path": "/a", "max_attempts": 0}}}, r"bundles\.a\.max_attempts"),
        (
            {"bundles": {"a": {"path": "/a", "max_attempts": "2"}}},
            r"bundles\.a\.max_attempts: is a text of 1 character; give a whole number from 1 to 10",
        ),
        (
            {"bundles": {"a": {"path": "/a", "concurrency": True}}},
            r"bundles\.a\.concurrency: is true; give a whole number from 1 to 1000",
        ),
        (
            {"bundles": {"a": {"path": "/a", "wall_limit_s": float("nan")}}},
            r"has NaN, which is no number of JSON",
        ),
        ({"bundles": {"a": {"path": "/a", "idle_limit_s": 9000}}}, "idle_limit_s is above"),
        ({"bundles": {"a": {"path": "/a", "required_user_type": "king"}}}, "required_user_type"),
        ({"bundles": {"a": {"path": "/a", "memory_limit_mb": 64}}}, r"memory_limit_mb: is 64; give a whole number"),
        ({"bundles": {"a": {"path": "/a", "cpu_limit": 0.5}}}, r"cpu_limit: is 0\.5; give a whole number from 1"),
        ({"bundles": {"a": {"path": "/a", "process_limit": 1}}}, r"process_limit: is 1; give"),
        (
            {"bundles": {"a": {"path": "/a", "file_size_limit_mb": 9, "temp_limit_mb": 8}}},
            "file_size_limit_mb is above temp_limit_mb",
        ),
        ({"bundles": {"a": {"path": "/a", "secrets": ["A=B"]}}}, r"secrets\.0"),
        ({"bundles": {"a": {"path": "/a", "secrets": ["REDIS_URL"]}}}, "REDIS_URL, which no bundle is given"),
        ({"bundles": [1]}, "bundles"),
        ({"bundles": {"a": 1}}, r"bundles\.a"),
        ({"default_bundle_id": "x", "bundles": {"a": {"path": "/a"}}}, "'x' is not among"),
    ],
)
def test_what_is_wrong_is_named(document, told):
    with pytest.raises(ConfigurationError, match=told):
        read(document)


def test_what_a_bundle_is_configured_with_is_not_shown():
    registry = read({"bundles": {"a": {"path": "/a", "config": {"key": "hunter2"}, "repo": "https://u:hunter2@g"}}})
    assert "hunter2" not in repr(registry)
    with pytest.raises(ConfigurationError) as caught:
        read({"bundles": {"a": {"path": "/a", "config": "hunter2"}}})
    assert "hunter2" not in str(caught.value)

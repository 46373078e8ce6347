"""The tree of a conversation's turns."""

from __future__ import annotations

from kdcube.postgres.branches import Link, Tree


def link(turn_id: str, parent: str | None = None, state: str = "completed", steer_of: str | None = None) -> Link:
    started = state not in {"queued", "steering", "applied", "unstarted"}
    return Link(turn_id, parent, steer_of, "failed" if state == "unstarted" else state, int(started))


def test_an_empty_conversation() -> None:
    tree = Tree([])
    assert tree.branch(None) == []
    assert tree.newest_leaf("a") is None
    assert tree.pending([]) == []


def test_branches_siblings_and_leaves() -> None:
    tree = Tree([link("a"), link("b", "a"), link("c", "b"), link("b2", "a"), link("a2")])
    assert tree.branch("c") == ["a", "b", "c"]
    assert tree.branch("b2") == ["a", "b2"]
    assert tree.siblings("b2") == ("b", "b2")
    assert tree.siblings("a") == ("a", "a2")
    assert tree.newest_leaf("a") == "b2"
    assert tree.newest_leaf("b") == "c"
    assert tree.newest_leaf("a2") == "a2"


def test_what_hangs_elsewhere() -> None:
    tree = Tree(
        [
            link("a"),
            link("s1", "a", "applied", "a"),
            link("s2", None, "steering", "a"),
            link("x", "a", "running"),
            link("q", "a", "queued"),
            link("lost", None, "unstarted"),
        ]
    )
    assert tree.applied() == {"a": ["s1"]}
    assert tree.pending(["a"]) == ["s2", "x", "q"]
    assert tree.pending(["a", "x"]) == ["s2", "q"]
    assert tree.unstarted() == ["lost"]
    assert tree.newest_leaf("q") is None


def test_a_loop_ends() -> None:
    tree = Tree([link("a", "b"), link("b", "a")])
    assert sorted(tree.branch("a")) == ["a", "b"]
    assert tree.newest_leaf("a") in {"a", "b"}

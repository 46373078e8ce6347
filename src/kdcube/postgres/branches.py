"""The tree of a conversation's turns: its active branch, the siblings on it, and what hangs elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcube.protocol.turns import TERMINAL


@dataclass(frozen=True, slots=True)
class Link:
    """What places a turn in its conversation."""

    turn_id: str
    parent_turn_id: str | None
    steer_of: str | None
    state: str
    attempt: int

    @property
    def placed(self) -> bool:
        """Whether the turn was started as one of its own, and so has its place on a branch."""
        return self.attempt > 0


class Tree:
    """``links`` are all turns of a conversation in the order of their admission."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._parents = {link.turn_id: link.parent_turn_id for link in links if link.placed}
        self._children: dict[str | None, list[str]] = {}
        for link in links:
            if link.placed:
                self._children.setdefault(link.parent_turn_id, []).append(link.turn_id)

    def branch(self, head: str | None) -> list[str]:
        """From the root to ``head``."""
        path: dict[str, None] = {}
        at = head
        while at is not None and at in self._parents and at not in path:
            path[at] = None
            at = self._parents[at]
        return list(path)[::-1]

    def siblings(self, turn_id: str) -> tuple[str, ...]:
        """The turns with the same parent, itself included, oldest first."""
        return tuple(self._children.get(self._parents.get(turn_id), ()))

    def newest_leaf(self, turn_id: str) -> str | None:
        """The end of the branch through ``turn_id`` that follows the newest child each time; None without a place."""
        if turn_id not in self._parents:
            return None
        seen = {turn_id}
        while (children := self._children.get(turn_id)) and children[-1] not in seen:
            turn_id = children[-1]
            seen.add(turn_id)
        return turn_id

    def applied(self) -> dict[str, list[str]]:
        """The steers that each turn applied, oldest first."""
        steers: dict[str, list[str]] = {}
        for link in self._links:
            if link.steer_of is not None and link.state == "applied":
                steers.setdefault(link.steer_of, []).append(link.turn_id)
        return steers

    def pending(self, branch: Sequence[str]) -> list[str]:
        """Unfinished turns that are not on ``branch``."""
        shown = set(branch)
        return [link.turn_id for link in self._links if link.state in _UNFINISHED and link.turn_id not in shown]

    def unstarted(self) -> list[str]:
        """Turns that ended before they started."""
        return [link.turn_id for link in self._links if not link.placed and link.state in TERMINAL]


_UNFINISHED = frozenset({"queued", "running", "steering"})

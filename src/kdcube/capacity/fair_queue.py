"""The queue of a partition by the rules of ``redis/lua/_turns.lua`` and ``claim.lua``, in memory: who is claimed next.

A turn waits for its conversation (parked), then for its user's cap (held), then competes. Among classes a claim takes
the one with the least pass (stride scheduling by weight), among users of a class the least finish tag (self-clocked
fair queueing). A test lets this and the scripts claim the same turns side by side. Left out, as a load does not depend
on them: leases, steers, interrupts, cancels.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from kdcube.protocol.turns import UserType
from kdcube.redis.queue import DEFAULT_SHARES, ClassShare


class Scheduled(Protocol):
    """What the queue knows of a turn."""

    @property
    def user_type(self) -> UserType: ...
    @property
    def user(self) -> str: ...
    @property
    def conversation(self) -> str: ...
    @property
    def bundle(self) -> str: ...


T = TypeVar("T", bound=Scheduled)


@dataclass(slots=True)
class _User:
    competing: int = 0
    """Turns that compete or are claimed."""
    tags: dict[UserType, int] = field(default_factory=dict[UserType, int])


@dataclass(slots=True)
class _Class:
    weight: float
    share: float
    lap: float = 0.0
    """Its pass."""
    time: int = 0
    """The finish tag that was served last."""
    running: int = 0


class FairQueue(Generic[T]):
    """``running_per_user``: turns of one user that compete or run at once. Turns are compared by identity of use: each
    is admitted once, claimed once and ended once.
    """

    def __init__(self, shares: Mapping[UserType, ClassShare] = DEFAULT_SHARES, *, running_per_user: int = 8) -> None:
        self._classes = {name: _Class(share.weight, share.share) for name, share in shares.items()}
        self._cap = running_per_user
        self._clock = 0.0
        self._order = 0
        self._lanes: dict[UserType, dict[str, list[tuple[int, int, T]]]] = {name: {} for name in shares}
        self._users: dict[str, _User] = {}
        self._held: defaultdict[str, list[tuple[int, T]]] = defaultdict(list)
        self._parked: dict[str, deque[tuple[int, T]]] = {}
        """By conversation with a turn that is not parked; its members wait for that."""
        self.competing = 0
        """Turns that a claim could take."""
        self.claimed = 0
        self.present = 0
        """All turns: those that wait, wherever, and those that are claimed."""

    @property
    def waiting(self) -> int:
        """Turns without a worker."""
        return self.present - self.claimed

    def admit(self, turn: T) -> None:
        """Puts the turn where it must wait."""
        self._order += 1
        self.present += 1
        parked = self._parked.get(turn.conversation)
        if parked is not None:
            parked.append((self._order, turn))
        else:
            self._parked[turn.conversation] = deque()
            self._contend(self._order, turn)

    def claim(self, room: Mapping[str, int], wanted: int, *, live_slots: int = 0) -> list[T]:
        """Up to ``wanted`` turns of bundles with ``room``. ``live_slots`` is what the classes' shares are parts of."""
        left = {bundle: free for bundle, free in room.items() if free > 0}
        claimed: list[T] = []
        while len(claimed) < wanted:
            found = self._next(left, live_slots)
            if found is None:
                break
            class_, start, lane = found
            tag, _, turn = heapq.heappop(lane)
            self._clock = start
            class_.lap = start + 1 / class_.weight
            class_.time = max(class_.time, tag)
            class_.running += 1
            left[turn.bundle] -= 1
            claimed.append(turn)
        self.competing -= len(claimed)
        self.claimed += len(claimed)
        return claimed

    def end(self, turn: T) -> None:
        """A claimed turn has ended: its user's and its conversation's next go on."""
        self._classes[turn.user_type].running -= 1
        self.claimed -= 1
        self.present -= 1
        self._release_user(turn.user)
        parked = self._parked[turn.conversation]
        if parked:
            self._contend(*parked.popleft())
        else:
            del self._parked[turn.conversation]

    def _next(self, left: Mapping[str, int], live_slots: int) -> tuple[_Class, float, list[tuple[int, int, T]]] | None:
        """The class with the least pass that has a turn for which there is room, where it starts, and its lane."""
        best: tuple[_Class, float, list[tuple[int, int, T]]] | None = None
        for name, class_ in self._classes.items():
            start = max(class_.lap, self._clock)
            if best is not None and start >= best[1]:
                continue
            if class_.share < 1 and class_.running >= max(1, math.ceil(class_.share * live_slots)):
                continue
            lanes = [lane for bundle, lane in self._lanes[name].items() if lane and left.get(bundle, 0) > 0]
            if lanes:
                best = class_, start, min(lanes, key=lambda lane: lane[0][:2])
        return best

    def _contend(self, order: int, turn: T) -> None:
        user = self._users.setdefault(turn.user, _User())
        if user.competing < self._cap:
            self._compete(order, turn, user)
        else:
            heapq.heappush(self._held[turn.user], (order, turn))

    def _compete(self, order: int, turn: T, user: _User) -> None:
        name = turn.user_type
        tag = max(self._classes[name].time, user.tags.get(name, 0)) + 1
        user.competing += 1
        user.tags[name] = tag
        heapq.heappush(self._lanes[name].setdefault(turn.bundle, []), (tag, order, turn))
        self.competing += 1

    def _release_user(self, name: str) -> None:
        user = self._users[name]
        user.competing -= 1
        if not user.competing:
            user.tags.clear()
        held = self._held.get(name)
        while held and user.competing < self._cap:
            self._compete(*heapq.heappop(held), user)
        if not user.competing:
            del self._users[name]
            self._held.pop(name, None)

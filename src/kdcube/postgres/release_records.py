"""What the registry of releases gives and takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["wanted", "ready", "failed"]
"""``wanted``: it is to be prepared. The others are settled and never change."""

Origin: TypeAlias = Literal["environment", "add", "update", "remove", "reload", "rollback", "webhook", "poll"]
"""How a release came about; ``environment``: a proc was started with another registry in its environment."""

LOOKING: frozenset[Origin] = frozenset({"reload", "webhook", "poll"})
"""These look for news of what is registered already, and decide nothing."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release of a bundle. ``entry`` is the document of its registry entry; None takes the bundle away."""

    bundle_id: str
    number: int
    entry: Mapping[str, Any] | None = field(repr=False)
    revision: str | None
    """The commit; None for a folder, and while it is not known."""
    state: State
    origin: Origin
    author: str
    reason: str | None
    problem: str | None
    """Why it failed."""
    created_ms: int
    settled_ms: int | None

    @property
    def name(self) -> str:
        return f"{self.bundle_id} release {self.number}"


@dataclass(frozen=True, slots=True)
class StoredRegistry:
    """What is to be served, and where each bundle stands. ``sequence`` 0: nothing was ever registered."""

    sequence: int = 0
    default_bundle_id: str | None = None
    default_by: str = "environment"
    releases: Mapping[str, Release] = field(default_factory=dict[str, Release])
    """By bundle, what is served: its last release that is ready. A bundle that is taken away is not here."""
    last: Mapping[str, Release] = field(default_factory=dict[str, Release])
    """By bundle, the last release, whatever its state."""
    decided: Mapping[str, Release] = field(default_factory=dict[str, Release])
    """By bundle, the last release that somebody made, instead of only looking for news."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One bundle."""

    last: Release
    served: Release | None
    """None when nothing is: no release was ready, or the last one that was takes the bundle away."""
    base: Release
    """The last release that has not failed, else the last: what a change builds upon."""


@dataclass(frozen=True, slots=True)
class Given:
    """A release to be made. ``ready``: there is nothing to prepare."""

    bundle_id: str
    entry: Mapping[str, Any] | None = field(repr=False)
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a registry."""

    releases: Sequence[Given]
    default: str | Literal[False] | None = False
    """Which bundle gets messages that name none; False leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """Nothing was stored: there is a later release than the one that was built upon."""

    last: Release | None


@dataclass(frozen=True, slots=True)
class Repeated:
    """Nothing was stored: the same cause has brought about ``release`` already."""

    release: Release


@dataclass(frozen=True, slots=True)
class Crowded:
    """Nothing was stored: too many releases of the bundle wait to be prepared."""

    wanted: int

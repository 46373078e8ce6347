"""The bundles that this process serves, which may change while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.gateway.subscriptions import Subscriptions


@dataclass(frozen=True, slots=True)
class ServedRelease:
    """What is to be served of one bundle."""

    entry: BundleEntry
    number: int = 0
    """Of the release; 0: the environment's entry, before anything was registered."""
    revision: str | None = None
    """The commit; None: the entry's folder as it is, or its ref has not been resolved."""


@dataclass(frozen=True)
class Registered:
    """What is to be served. ``sequence`` 0 is what the environment says: nothing was ever registered."""

    sequence: int
    default_bundle_id: str | None
    """None, or a bundle of ``releases`` or ``unready``."""
    releases: Mapping[str, ServedRelease]
    unready: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """Bundles of which nothing can be served yet: why, or None while the first release is being prepared."""
    problems: Mapping[str, str] = field(default_factory=dict[str, str])
    """By bundle, why this process does not serve the release that is to be served."""

    @classmethod
    def of_environment(cls, registry: BundleRegistry) -> Registered:
        """What is served before anything was registered."""
        releases = {bundle_id: ServedRelease(entry) for bundle_id, entry in registry.bundles.items()}
        return cls(0, registry.default_bundle_id, releases)

    @property
    def known(self) -> frozenset[str]:
        """Every bundle that is registered, ready or not."""
        return frozenset((*self.releases, *self.unready))

    @cached_property
    def registry(self) -> BundleRegistry:
        """For those who need the entries alone."""
        entries = {bundle_id: release.entry for bundle_id, release in self.releases.items()}
        default = self.default_bundle_id if self.default_bundle_id in entries else None
        return BundleRegistry(default_bundle_id=default, bundles=entries)


Subscription: TypeAlias = Callable[[Registered], None]


class LiveBundles:
    """Whoever serves bundles reads ``current`` each time, or subscribes; nobody keeps a part of it otherwise."""

    def __init__(self, registered: Registered) -> None:
        self._current = registered
        self._subscriptions = Subscriptions[Registered]("bundles")

    @classmethod
    def of(cls, registry: BundleRegistry) -> LiveBundles:
        """Of what the environment says."""
        return cls(Registered.of_environment(registry))

    @property
    def current(self) -> Registered:
        return self._current

    @property
    def registry(self) -> BundleRegistry:
        return self._current.registry

    def subscribe(self, callback: Subscription) -> None:
        """Calls ``callback`` with what is to be served now, and with each change, on the event loop.

        It must not wait. One that raises later does not keep others from the change.
        """
        self._subscriptions.add(callback, self._current)

    def apply(self, registered: Registered) -> None:
        """Makes ``registered`` the current one and tells all subscribers. Runs on the event loop."""
        self._current = registered
        self._subscriptions.tell(registered)

    def report(self) -> dict[str, object]:
        """What the process says of it, in health, readiness and reports."""
        current = self._current
        report: dict[str, object] = {"bundles_sequence": current.sequence}
        if current.problems:
            report["bundles_problems"] = dict(current.problems)
        return report

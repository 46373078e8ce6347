"""What each proc says that it runs of the registered bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kdcube.postgres.release_records import Release

_MEMBER = "releases"

Instances = Sequence[Mapping[str, Any]]
"""As ``gateway.monitoring.instances`` gives them."""


@dataclass(frozen=True, slots=True)
class Active:
    """The release whose code new turns of a bundle run in one proc."""

    number: int
    version: str
    """As it stands in the events of turns; empty while nothing runs."""
    problem: str | None = None
    """Why a later release is not taken, or why none runs."""


def activity(active: Mapping[str, Active]) -> dict[str, object]:
    """For the report of a proc: by bundle."""
    told = {
        bundle_id: {"number": one.number, "version": one.version, "problem": one.problem}
        for bundle_id, one in active.items()
    }
    return {_MEMBER: told}


def procs_of(bundle_id: str, instances: Instances | None) -> list[dict[str, Any]] | None:
    """What each live proc that takes turns runs of the bundle; None when that cannot be told."""
    if instances is None:
        return None
    told: list[dict[str, Any]] = []
    for instance in _procs(instances):
        of_all = instance.get(_MEMBER)
        one: Any = cast("Mapping[str, Any]", of_all).get(bundle_id) if isinstance(of_all, Mapping) else None
        runs: dict[str, Any] = dict.fromkeys(("number", "version", "problem"))
        if isinstance(one, dict):
            runs = cast("dict[str, Any]", one)
        told.append({"instance": instance["instance"], **runs})
    return told


def is_active(release: Release, procs: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether all procs run the release, or a later one; of one that takes the bundle away: that none runs it."""
    if not procs or release.state != "ready":
        return False
    numbers = [proc["number"] for proc in procs]
    if release.entry is None:
        return all(number is None or number > release.number for number in numbers)
    return all(number is not None and number >= release.number for number in numbers)


def _procs(instances: Instances) -> Iterable[Mapping[str, Any]]:
    for instance in instances:
        if instance.get("component") == "proc" and instance.get("state") == "live" and not instance.get("draining"):
            yield instance

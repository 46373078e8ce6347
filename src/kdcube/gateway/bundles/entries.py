"""Registry entries as documents: as they are given and stored, and what they mean to this release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdcube.config.bundles import BundleEntry
from kdcube.config.documents import Finding
from kdcube.config.findings import findings_of
from kdcube.protocol.errors import KDCubeError


class InvalidEntry(KDCubeError):
    """The entry cannot be served: all that is wrong with it is in ``findings``."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


def entry_of(bundle_id: str, document: Mapping[str, Any]) -> BundleEntry:
    """What ``document`` means; ``id`` may be left out of it. Raises InvalidEntry."""
    try:
        entry = BundleEntry.model_validate({"id": bundle_id, **document})
    except ValidationError as error:
        raise InvalidEntry(findings_of(error, BundleEntry, values=False)) from None
    if entry.id != bundle_id:
        raise InvalidEntry([Finding("id", f"cannot be changed: it is {bundle_id}")])
    return entry


def given_entry(bundle_id: str, document: Mapping[str, Any]) -> BundleEntry:
    """As ``entry_of``, for what somebody gives now: what would mean another folder to each process is refused."""
    entry = entry_of(bundle_id, document)
    if entry.path is not None and not Path(entry.path).is_absolute():
        raise InvalidEntry([Finding("path", "is relative; make it absolute: it is a folder of the procs")])
    return entry


def document_of(entry: BundleEntry) -> dict[str, Any]:
    """The one spelling in which an entry is stored: without what is so by default."""
    return entry.model_dump(mode="json", exclude_defaults=True)


def says_the_same(document: Mapping[str, Any] | None, entry: BundleEntry) -> bool:
    """Whether a stored document means ``entry``."""
    if document is None:
        return False
    try:
        return entry_of(entry.id, document) == entry
    except InvalidEntry:  # of a later release
        return False


def changed_fields(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """The names of the fields that differ; values may be confidential."""
    old, new = before or {}, after or {}
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))

"""Documents of the configuration, as they are given and stored, and what they resolve to for this installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdcube.config.documents import Finding
from kdcube.config.gateway import Invalid, Valid, check_gateway_document
from kdcube.protocol.errors import KDCubeError


class InvalidDocument(KDCubeError):
    """The configuration cannot be run: all that is wrong with it is in ``findings``."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


def resolved(document: Mapping[str, Any], scope: tuple[str, str]) -> Valid:
    """What ``document`` means for the tenant and project of ``scope``. Raises InvalidDocument."""
    checked = check_gateway_document(document)
    if isinstance(checked, Invalid):
        raise InvalidDocument(checked.errors)
    config = checked.config
    moved = [
        Finding(field, f"cannot be changed: this installation is for {own}")
        for field, own, given in zip(("tenant", "project"), scope, (config.tenant, config.project), strict=True)
        if given != own
    ]
    if moved:
        raise InvalidDocument(moved)
    return checked

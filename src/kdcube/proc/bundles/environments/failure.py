"""What building an environment fails with."""

from __future__ import annotations

from pathlib import Path

from kdcube.proc.bundles.sources.source import SourceError


class EnvironmentNotBuilt(SourceError):
    """A bundle's environment cannot be had. ``reason`` is for the operator, may have several lines and holds no
    credentials; ``file`` is the one that decides, ``line`` counts from 1. ``later``: it is not the bundle's fault, and
    may be had another time.
    """

    def __init__(self, reason: str, file: Path | None = None, line: int | None = None, *, later: bool = False) -> None:
        where = "" if file is None else f" ({file})" if line is None else f" ({file}, line {line})"
        super().__init__(f"its environment cannot be built: {' '.join(reason.split())}{where}")
        self.reason = reason
        self.file = file
        self.line = line
        self.later = later

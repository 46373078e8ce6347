"""How an environment is known from the inside. Only the standard library is here, as in every environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RECORD = "kdcube-environment.json"
"""In each environment: what it was built from, when, and how large it is."""


def decided_by(prefix: Path | None = None) -> str | None:
    """The name of the bundle's file that decides what this Python (``sys.prefix``) has; None for another Python."""
    try:
        name = json.loads(((prefix or Path(sys.prefix)) / RECORD).read_bytes())["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None

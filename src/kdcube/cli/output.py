"""How facts are shown to people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns with headings. On a terminal they fit its width; elsewhere nothing is cut or broken."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 1_000, highlight=False, markup=False).print(shown)

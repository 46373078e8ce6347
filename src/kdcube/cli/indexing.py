"""How far the documents are read, on the terminal or in the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdcube.docs.indexing.place import Progress as Reading

_LINE_INTERVAL_S = 5.0


@contextmanager
def shown_progress(report: Callable[[str], None]) -> Generator[Callable[[Reading], None]]:
    """What it yields is told of each step: a bar on a terminal, elsewhere a line every 5 s."""
    if not sys.stdout.isatty():
        yield _lines(report)
        return
    columns = (TextColumn("docs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(highlight=False), transient=True)
    task = bar.add_task("docs", total=None)

    def draw(reading: Reading) -> None:
        bar.start()  # not before there is something to draw; it is gone when all is read
        bar.update(task, completed=reading.done, total=reading.total)
        if reading.done + 1 >= reading.total:
            bar.stop()

    try:
        yield draw
    finally:
        bar.stop()


def _lines(report: Callable[[str], None]) -> Callable[[Reading], None]:
    due = time.monotonic() + _LINE_INTERVAL_S

    def tell(reading: Reading) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _LINE_INTERVAL_S
            report(f"docs: reading, {reading.done:,} of {reading.total:,} files")

    return tell

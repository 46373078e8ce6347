"""docs/metrics.md shows the catalogue as it is."""

from __future__ import annotations

from pathlib import Path

from kdcube.telemetry.catalogue import table

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_shows_the_catalogue() -> None:
    """Put the lines of ``table()`` between the marks when this fails."""
    _, _, rest = PAGE.read_text().partition("<!-- catalogue -->\n")
    shown, mark, _ = rest.partition("<!-- /catalogue -->")
    assert mark
    assert shown == "\n".join(table()) + "\n"

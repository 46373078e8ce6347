"""Charts as SVG files."""

from __future__ import annotations

import re
from pathlib import Path

import pygal
from bench.report import Chart
from pygal.style import Style

_STYLE = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    title_font_size=16,
    label_font_size=12,
    legend_font_size=12,
    value_font_size=11,
    colors=("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#9c6b4e"),
)
_ROW_PX, _FRAME_PX = 46, 130


def draw(chart: Chart, folder: Path) -> None:
    """Writes ``folder/NAME.svg``: bars side by side, or stacked when their sum means something."""
    kind = pygal.HorizontalStackedBar if chart.stacked else pygal.HorizontalBar
    rows = len(chart.labels) * (1 if chart.stacked else len(chart.series))
    plot = kind(
        style=_STYLE,
        title=chart.title,
        width=800,
        height=_FRAME_PX + _ROW_PX * max(rows, 3),
        js=(),
        no_prefix=True,
        print_values=not chart.stacked,
        value_formatter=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}",
        show_legend=len(chart.series) > 1,
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
    )
    plot.x_labels = list(reversed(chart.labels))  # drawn from the bottom
    for name, values in chart.series.items():
        plot.add(name, list(reversed(values)))
    folder.mkdir(parents=True, exist_ok=True)
    # The script that pygal adds names folders of this machine, and pages do not run it anyway.
    (folder / f"{chart.name}.svg").write_bytes(re.sub(rb"<script.*?</script>", b"", plot.render(), flags=re.DOTALL))

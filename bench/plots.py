"""Charts as SVG files."""

from __future__ import annotations

from pathlib import Path

import pygal
from bench.report import Chart, Curves

from kdcube.capacity.plots import STYLE, curves, without_scripts

_ROW_PX, _FRAME_PX = 46, 130


def draw(chart: Chart | Curves, folder: Path) -> None:
    """Writes ``folder/NAME.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{chart.name}.svg").write_bytes(_bars(chart) if isinstance(chart, Chart) else _lines(chart))


def _lines(chart: Curves) -> bytes:
    return curves(chart.title, chart.series, x_title=chart.x_title, y_title=chart.y_title)


def _bars(chart: Chart) -> bytes:
    """Side by side, or stacked when their sum means something."""
    kind = pygal.HorizontalStackedBar if chart.stacked else pygal.HorizontalBar
    rows = len(chart.labels) * (1 if chart.stacked else len(chart.series))
    plot = kind(
        style=STYLE,
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
    return without_scripts(plot.render())

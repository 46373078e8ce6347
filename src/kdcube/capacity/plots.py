"""Curves as SVG files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pygal  # pyright: ignore[reportMissingTypeStubs]
from pygal.style import Style  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

Points = Sequence[tuple[float, float]]

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#9c6b4e")
STYLE: Any = cast(Any, Style)(
    background="white", plot_background="white", font_family="sans-serif", title_font_size=16, label_font_size=12,
    legend_font_size=12, value_font_size=11, colors=COLOURS,
)  # fmt: skip
"""Of all charts of this project."""


def curves(title: str, series: Mapping[str, Points], *, x_title: str, y_title: str) -> bytes:
    """One line for each name, as SVG. Steps between points are drawn straight."""
    chart: Any = cast(Any, pygal).XY(
        style=STYLE, title=title, x_title=x_title, y_title=y_title, width=800, height=380, js=(), dots_size=1.5,
        show_x_guides=False, legend_at_bottom=True, legend_at_bottom_columns=3, include_x_axis=True,
        value_formatter=_told,
    )  # fmt: skip
    for name, points in series.items():
        chart.add(name, [*points], show_dots=len(points) <= 80)
    return without_scripts(chart.render())


def without_scripts(svg: bytes) -> bytes:
    """The script that pygal adds names folders of this machine, and pages do not run it anyway."""
    return re.sub(rb"<script.*?</script>", b"", svg, flags=re.DOTALL)


def _told(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"

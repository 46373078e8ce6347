"""Sections as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report import Machine, Section, Table, Target, digits


def section_text(section: Section, figures: str | None = None) -> str:
    """Without a title. ``figures``: the folder of the charts, as seen from the text; None leaves them out."""
    parts = [section.how, *map(table_text, section.tables)]
    if section.targets:
        parts.append(targets_text(section.targets))
    if figures is not None:
        parts += [f"![{chart.title}]({figures}/{chart.name}.svg)" for chart in section.charts]
    return "\n\n".join(parts)


def table_text(table: Table) -> str:
    rows = [" | ".join(row) for row in (table.columns, ["---"] * len(table.columns), *table.rows)]
    text = "\n".join(f"| {row} |" for row in rows)
    return f"{table.caption}\n\n{text}" if table.caption else text


def targets_text(targets: Iterable[Target]) -> str:
    return table_text(
        Table(
            ("aim", "wanted", "measured", ""),
            [
                (target.what, target.limit, digits(target.measured), "met" if target.met else "**not met**")
                for target in targets
            ],
        )
    )


def machine_text(machine: Machine, quick: bool, took_s: float) -> str:
    text = (
        f"{'A quick run, of rough figures: ' if quick else ''}{machine.began.replace('+00:00', ' UTC')}, "
        f"commit {machine.commit}; {machine.cores} shared cores ({machine.processor}), {machine.memory_gb:g} GB, "
        f"Linux {machine.kernel}, {machine.python}; load average before the run {machine.load_before:g}; "
        f"{took_s / 60:.0f} min."
    )
    if machine.load_before > machine.cores / 2:
        text += (
            " **The machine was busy with other work**: rates and latencies of this run say little, "
            "CPU times are too high by what sharing caches and cores costs, and ratios hold best."
        )
    return text

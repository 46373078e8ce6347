"""A soak as Markdown."""

from __future__ import annotations

from collections import Counter

from bench.markdown import table_text
from bench.report import Machine, Table, digits, quantiles
from bench.soak.judging import MB, Growth, Verdict, per_hour
from bench.soak.processes import Held
from bench.soak.run import Record, Sample


def text(record: Record, verdict: Verdict, machine: Machine) -> str:
    parts = [
        _summary(record, verdict, machine),
        table_text(_checks(verdict)),
        *(f"- {line}" for check in verdict.checks for line in check.wrong[:20]),
        table_text(_memory(verdict)),
        table_text(_held(record)),
        table_text(_keys(record)),
        table_text(_faults(record)),
    ]
    return "\n\n".join(parts)


def _summary(record: Record, verdict: Verdict, machine: Machine) -> str:
    tally, plan = record.tally, record.plan
    lines = [
        f"**{'Passed' if verdict.passed else 'FAILED'}.** {machine.began.replace('+00:00', ' UTC')}, commit "
        f"{machine.commit}; {machine.cores} cores ({machine.processor}), {machine.memory_gb:g} GB, {machine.python}; "
        f"load average before the run {machine.load_before:g}.",
        f"Seed {plan.seed}. The machine carries {digits(record.capacity_per_s or 0)} turns/s; loaded with "
        f"{digits(record.rate_per_s)} messages/s for {digits(record.load_s / 60)} minutes, with {len(record.struck)} "
        "faults.",
        f"{tally.sent:,} messages, {tally.accepted:,} accepted, {sum(tally.refused.values()):,} refused "
        f"({_counts(tally.refused)}); ends: {_counts(tally.ends)}; {tally.events:,} events seen by readers.",
        f"Users and streams: {_counts(tally.did)}.",
    ]
    if len(record.late_s) > 1:
        times = quantiles(record.late_s)
        lines.append(
            f"From when a message was due to its last event: p50 {digits(times.p50_ms)} ms, p99 "
            f"{digits(times.p99_ms)} ms, faults included; the load generator was late by "
            f"{digits(record.worst_lag_s * 1000)} ms at worst."
        )
    return "\n\n".join(lines)


def _checks(verdict: Verdict) -> Table:
    rows = [
        (check.what, check.allowed, check.found, "ok" if check.passed else "**FAILED**") for check in verdict.checks
    ]
    return Table(("check", "allowed", "found", ""), rows)


def _memory(verdict: Verdict) -> Table:
    def row(each: Growth) -> tuple[str, ...]:
        limit = per_hour(each.limit_bytes_s) or "none"
        return (
            each.process,
            f"{each.lives}",
            digits(each.longest_s / 60),
            digits(each.begin_bytes / MB),
            digits(each.end_bytes / MB),
            per_hour(each.slope_bytes_s),
            limit,
        )

    columns = ("process", "lives", "longest, min", "begin, MB", "end, MB", "slope, MB/h", "limit, MB/h")
    return Table(
        columns, [row(each) for each in verdict.growth], caption="Private memory (idle), and its slope under load:"
    )


def _held(record: Record) -> Table:
    moments: list[tuple[str, Sample]] = []
    if record.begin is not None:
        moments.append(("begin", record.begin))
    moments += [
        (f"{sample.at_s / 60:.1f} min", sample) for sample in record.samples[:: max(1, len(record.samples) // 6)]
    ]
    if record.end is not None:
        moments.append(("end", record.end))
    names = sorted({name for _, sample in moments for name in sample.processes})
    rows = [(name, *(_brief(sample.processes.get(name, [])) for _, sample in moments)) for name in names]
    rows += [
        ("Valkey: connections, channels", *(_valkey(sample, "connections", "channels") for _, sample in moments)),
        ("Valkey: keys", *(_valkey(sample, "keys") for _, sample in moments)),
        (
            "Valkey: used MB",
            *("away" if sample.valkey is None else digits(sample.valkey.used_memory / MB) for _, sample in moments),
        ),
        (
            "PostgreSQL: connections, unfinished turns",
            *(
                "away" if (at := sample.postgres) is None else f"{sum(at.connections.values())}, {at.unfinished}"
                for _, sample in moments
            ),
        ),
        (
            "PostgreSQL: database MB",
            *("away" if sample.postgres is None else digits(sample.postgres.size / MB) for _, sample in moments),
        ),
        ("accepted", *(f"{sample.accepted}" for _, sample in moments)),
        ("visitors", *(f"{sample.visitors}" for _, sample in moments)),
    ]
    caption = "PSS in MB / descriptors / threads of each (the most of several):"
    return Table(("", *(name for name, _ in moments)), rows, caption=caption)


def _brief(processes: list[Held]) -> str:
    if not processes:
        return "away"
    most = [max(getattr(held, what) for held in processes) for what in ("pss", "fds", "threads")]
    several = f" ({len(processes)})" if len(processes) > 1 else ""
    return f"{most[0] / MB:.0f} / {most[1]} / {most[2]}{several}"


def _valkey(sample: Sample, *what: str) -> str:
    return "away" if sample.valkey is None else ", ".join(f"{getattr(sample.valkey, name)}" for name in what)


def _keys(record: Record) -> Table:
    begin, end = record.keys_at_begin, record.keys_at_end
    assert begin is not None and end is not None
    rows = [
        (
            kind,
            f"{begin.kinds[kind].count}" if kind in begin.kinds else "",
            f"{found.count}",
            digits(found.bytes_each),
            digits(found.count * found.bytes_each / MB),
        )
        for kind, found in end.kinds.items()
    ]
    return Table(("keys", "begin", "end", "bytes each", "MB"), rows, caption="Keys of Valkey by kind:")


def _faults(record: Record) -> Table:
    count = Counter(fault.what for fault in record.struck)
    rows = [
        (
            what,
            f"{times}",
            digits(max((fault.healed_s or float("inf")) - fault.at_s for fault in record.struck if fault.what == what)),
        )
        for what, times in sorted(count.items())
    ]
    return Table(("fault", "times", "all ready again after, s, at worst"), rows)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"

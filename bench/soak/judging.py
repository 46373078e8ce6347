"""What must hold in the end, check by check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import digits
from bench.soak.processes import OWN, Held
from bench.soak.run import Record, Sample, more_open
from bench.soak.slopes import Point, theil_sen

import kdcube.redis

MB = 1024**2
LEFT_BYTES = 64
"""A turn: less than the smallest thing that Python can leave behind of one, an empty dict. What grows by more leaks."""
NOISE_BYTES = 8 * MB
"""By so much the memory of a process moves for no reason, over any time."""
UNEXPLAINED_SHARE, UNEXPLAINED_BYTES = 0.05, 4 * MB
"""Of Valkey's memory: what the allocator rounds up, and its own tables that grow by doubling."""
POOL = 8
"""Connections to PostgreSQL that a process may have (``pg_pool_max_size``), and one that holds the leader's lock."""
OWN_SCRIPTS = len(list(Path(kdcube.redis.__file__).parent.glob("lua/[!_]*.lua")))
_YOUNG_S = 60.0
_YOUNG_SHARE = 0.2
_APART_S = 60.0
_POINTS = 5
"""Of a life that is too short for them nothing can be told."""
_UNJUDGED = (OWN, "valkey")


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    allowed: str
    found: str
    passed: bool
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Growth:
    """Of the memory of one kind of process under load: of the life that comes next to its limit, or is beyond it."""

    process: str
    lives: int
    longest_s: float
    begin_bytes: float
    end_bytes: float
    """When idle: the mean of its processes."""
    slope_bytes_s: float | None
    """None when no process lived long enough to tell."""
    limit_bytes_s: float | None

    @property
    def passed(self) -> bool:
        return self.slope_bytes_s is None or self.limit_bytes_s is None or self.slope_bytes_s <= self.limit_bytes_s


@dataclass(frozen=True, slots=True)
class Verdict:
    checks: list[Check]
    growth: list[Growth]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def judge(record: Record) -> Verdict:
    assert record.begin is not None and record.end is not None
    growth = list(_growth(record))
    checks = [*_turns(record), *_rows(record), _memory(growth), *_open(record.begin, record.end), *_valkey(record)]
    return Verdict(checks, growth)


def _turns(record: Record) -> Iterable[Check]:
    tally = record.tally
    yield _check("violations of the turn protocol", "0", len(tally.wrong), not tally.wrong, tally.wrong)
    whole = tally.checked == tally.accepted
    yield _check("accepted turns whose history was proven", f"{tally.accepted}", tally.checked, whole)
    unhealed = [f"{fault.what} at {fault.at_s:.0f} s" for fault in record.struck if fault.healed_s is None]
    yield _check("faults after which the system did not come back", "0", len(unhealed), not unhealed, unhealed)


def _rows(record: Record) -> Iterable[Check]:
    assert record.end is not None
    stored = record.end.postgres
    if stored is None:
        yield _check("PostgreSQL answers in the end", "yes", "no", False)
        return
    yield _check("turns that are not terminal", "0", stored.unfinished, not stored.unfinished)
    for table, wanted in (("turns", record.tally.accepted), ("conversations", record.tally.conversations)):
        yield _check(f"rows in `{table}`", f"{wanted}, as accepted", stored.rows[table], stored.rows[table] == wanted)
    others = {name: rows for name, rows in stored.rows.items() if name not in ("turns", "conversations")}
    before = record.begin.postgres.rows if record.begin and record.begin.postgres else {}
    same = all(rows == before.get(name) for name, rows in others.items())
    yield _check("rows in other tables", _named({name: before.get(name, 0) for name in others}), _named(others), same)
    over = {name: count for name, count in stored.connections.items() if count > POOL + 1}
    yield _check(
        "connections to PostgreSQL", f"{POOL} + 1 a process", _named(stored.connections), not over, map(str, over)
    )


def _memory(growth: Sequence[Growth]) -> Check:
    wrong = [
        f"{each.process} grows by {per_hour(each.slope_bytes_s)} MB/h, more than {per_hour(each.limit_bytes_s)}"
        for each in growth
        if not each.passed
    ]
    return _check("processes whose memory grows", "0", len(wrong), not wrong, wrong)


def _open(begin: Sample, end: Sample) -> Iterable[Check]:
    wrong = more_open(begin, end)
    for what in ("fds", "threads", "processes", "connections", "channels"):
        found = [line for line in wrong if f" {what} instead" in line]
        name = {"fds": "descriptors"}.get(what, what)
        where = " of Valkey" if what in ("connections", "channels") else ""
        yield _check(f"more {name}{where} than in the beginning", "0", len(found), not found, found)


def _valkey(record: Record) -> Iterable[Check]:
    keys, begin, end = record.keys_at_end, record.begin, record.end
    assert keys is not None and begin is not None and end is not None
    yield _check("keys in Valkey without a reason or a due end", "0", len(keys.wrong), not keys.wrong, keys.wrong)
    yield _check("turns that ended and Valkey has forgotten", "0", keys.missing_done, not keys.missing_done)
    if end.valkey is None or begin.valkey is None or record.keys_at_begin is None:
        yield _check("Valkey answers in the end", "yes", "no", False)
        return
    scripts = end.valkey.scripts
    yield _check("scripts in Valkey", f"{OWN_SCRIPTS} that there are", scripts, scripts <= OWN_SCRIPTS)
    before = begin.valkey.used_memory - record.keys_at_begin.explained_bytes
    unexplained = end.valkey.used_memory - keys.explained_bytes - before
    limit = max(UNEXPLAINED_BYTES, UNEXPLAINED_SHARE * end.valkey.used_memory)
    yield _check(
        "memory of Valkey that no key explains, more than in the beginning, MB",
        digits(limit / MB),
        digits(unexplained / MB),
        unexplained <= limit,
    )


def _growth(record: Record) -> Iterable[Growth]:
    assert record.begin is not None and record.end is not None
    names = sorted({name for sample in record.samples for name in sample.processes})
    young_s = min(_YOUNG_S, _YOUNG_SHARE * record.load_s)
    for name in names:
        lives = [life for life in _lives(record.samples, name, young_s) if len(life) >= _POINTS]
        limits = [max(LEFT_BYTES * record.rate_per_s, NOISE_BYTES / _span_s(life)) for life in lives]
        worst = max(zip(map(_slope, lives), limits, strict=True), key=lambda each: each[0] / each[1], default=None)
        yield Growth(
            name,
            len(lives),
            max(map(_span_s, lives), default=0.0),
            _mean_anon(record.begin.processes.get(name, [])),
            _mean_anon(record.end.processes.get(name, [])),
            worst and worst[0],
            worst[1] if worst and name not in _UNJUDGED else None,
        )


def _slope(life: Sequence[Point]) -> float:
    """In bytes/s: the smaller one of the whole life and of its second half."""
    apart_s = min(_APART_S, _span_s(life) / 4)
    slopes = [theil_sen(part, apart_s=apart_s) for part in (life, life[len(life) // 2 :])]
    return min(slope for slope in slopes if slope is not None)


def _span_s(life: Sequence[Point]) -> float:
    return life[-1][0] - life[0][0]


def _lives(samples: Sequence[Sample], name: str, young_s: float) -> list[list[Point]]:
    """The memory of each process of this name, once it is no longer young."""
    lives: dict[int, list[Point]] = {}
    for sample in samples:
        for held in sample.processes.get(name, []):
            if held.age_s >= young_s:
                lives.setdefault(held.pid, []).append((sample.at_s, held.anon))
    return list(lives.values())


def _mean_anon(processes: Sequence[Held]) -> float:
    return sum(held.anon for held in processes) / len(processes) if processes else 0.0


def per_hour(bytes_s: float | None) -> str:
    return "" if bytes_s is None else digits(bytes_s * 3600 / MB)


def _named(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _check(what: str, allowed: str, found: object, passed: bool, wrong: Iterable[str] = ()) -> Check:
    return Check(what, allowed, str(found), passed, tuple(wrong))

"""How the soak judges: what grows, what is left, and what has reason to be there."""

from __future__ import annotations

import random

import pytest
from bench.soak.judging import LEFT_BYTES, MB, NOISE_BYTES, judge
from bench.soak.processes import Held
from bench.soak.run import Plan, Record, Sample, more_open
from bench.soak.slopes import theil_sen
from bench.soak.stores import KEYS, KeyCensus, KeyCount, PostgresState, ValkeyState, wrong_key

RATE = 100.0
RUN_S = 1800


def test_the_slope_of_a_line_is_its_slope_whatever_some_points_say():
    choose = random.Random(1)
    points = [(float(t), 3.0 * t + choose.uniform(-1, 1)) for t in range(100)]
    spoiled = [(t, y + 1e6) if choose.random() < 0.2 else (t, y) for t, y in points]
    assert theil_sen(points, apart_s=10) == pytest.approx(3, rel=0.02)
    assert theil_sen(spoiled, apart_s=10) == pytest.approx(3, rel=0.2)


def test_points_that_are_too_near_tell_nothing():
    assert theil_sen([(0, 5.0), (10, 5.0)], apart_s=10) == 0
    assert theil_sen([(0, 5.0), (10, 5.0)], apart_s=11) is None


def held(pid: int, age_s: float, anon: float, **other: int) -> Held:
    size = int(anon)
    return Held(pid, age_s, size, size, size, **{"fds": 20, "threads": 2, **other})


def sample(at_s: float, *processes: Held) -> Sample:
    valkey = ValkeyState(12, 3, 10, 5 * MB, 80_000, 16, 100)
    postgres = PostgresState({"proc-0": 8}, 0, {"turns": 7, "conversations": 2, "epochs": 1}, MB, True)
    return Sample(at_s, {"proc-0": list(processes)}, valkey, postgres, 7, 0)


def record(*lives: list[Held]) -> Record:
    """A run that left nothing behind, with what proc-0 held every 10 s."""
    found = Record(Plan(minutes=RUN_S / 60, seed=1), rate_per_s=RATE, load_s=RUN_S)
    found.samples = [sample(number * 10.0, each) for number, each in enumerate(each for life in lives for each in life)]
    found.begin, found.end = sample(0, held(1, 10, MB)), sample(RUN_S, held(1, RUN_S, MB))
    found.keys_at_begin = found.keys_at_end = KeyCensus({"done": KeyCount(7, 200.0)}, 0, MB, 0.0)
    found.tally.accepted = found.tally.checked = 7
    found.tally.conversations = 2
    return found


def life(pid: int, seconds: int, bytes_s: float, burst: float = 0) -> list[Held]:
    choose = random.Random(pid)
    return [
        held(pid, t, 50 * MB + bytes_s * t + choose.uniform(-MB, MB) + burst * (t > 300)) for t in range(0, seconds, 10)
    ]


def failed(found: Record) -> list[str]:
    return [check.what for check in judge(found).checks if not check.passed]


def test_a_run_that_leaves_nothing_passes():
    assert failed(record(life(1, RUN_S, 0))) == []


def test_a_leak_of_more_than_the_limit_a_turn_is_found():
    assert failed(record(life(1, RUN_S, 2 * LEFT_BYTES * RATE))) == ["processes whose memory grows"]
    assert failed(record(life(1, RUN_S, 0.5 * LEFT_BYTES * RATE))) == []


def test_a_leak_is_found_in_lives_that_end_before_it_is_large():
    leaking = 2 * NOISE_BYTES / 500
    assert failed(record(*(life(pid, 600, leaking) for pid in (1, 2, 3)))) == ["processes whose memory grows"]
    assert failed(record(*(life(pid, 600, 0) for pid in (1, 2, 3)))) == []


def test_a_leak_of_one_process_of_many_is_found():
    found = record(life(1, RUN_S, 0))
    for number, each in enumerate(found.samples):
        leaking = 2 * LEFT_BYTES * RATE * number * 10
        each.processes["bundle host"] = [held(pid, RUN_S, 20 * MB + leaking * (pid == 7)) for pid in range(5, 15)]
    assert failed(found) == ["processes whose memory grows"]


def test_memory_that_a_burst_took_once_is_no_leak():
    assert failed(record(life(1, RUN_S, 0, burst=60 * MB))) == []


@pytest.mark.parametrize("what", ["fds", "threads"])
def test_what_is_open_must_be_closed_in_the_end(what: str):
    begin, more = sample(0, held(1, 10, MB)), sample(10, held(1, 20, MB, **{what: 40}))
    assert more_open(begin, begin) == []
    assert more_open(begin, more) == [f"proc-0: 40 {what} instead of {20 if what == 'fds' else 2}"]
    assert more_open(more, begin) == []


def test_a_proc_may_hold_what_another_host_takes():
    begin, more = sample(0, held(1, 10, MB)), sample(10, held(1, 20, MB, fds=27))
    begin.processes["bundle host"] = [held(5, 10, MB)]
    more.processes["bundle host"] = [held(5, 20, MB), held(6, 5, MB)]
    assert more_open(begin, more) == []
    more.processes["proc-0"] = [held(1, 20, MB, fds=28)]
    assert more_open(begin, more) == ["proc-0: 28 fds instead of 20"]


def test_every_accepted_turn_is_a_row_and_is_proven():
    for what, count in (("rows in `turns`", 8), ("rows in `turns`", 6)):
        found = record(life(1, RUN_S, 0))
        found.tally.accepted = found.tally.checked = count
        assert failed(found) == [what]
    found = record(life(1, RUN_S, 0))
    found.tally.checked = 6
    assert failed(found) == ["accepted turns whose history was proven"]
    found.tally.found("a turn ended twice")
    assert failed(found) == ["violations of the turn protocol", "accepted turns whose history was proven"]


TURNS = {"ended": ("completed", 0, 0, "alice"), "runs": ("running", 0, 0, "alice")}


@pytest.mark.parametrize(
    ("key", "ttl_s", "wrong"),
    [
        (KEYS.done("ended"), 24 * 3600, None),
        (KEYS.done("ended"), 24 * 3600 + 1, "longer than"),
        (KEYS.done("ended"), None, "never expires"),
        (KEYS.done("unknown"), 60, "not stored"),
        (KEYS.log("ended"), 15 * 60, None),
        (KEYS.log("ended"), 48 * 3600, "longer than"),
        (KEYS.log_meta("runs"), 60, "its turn is running"),
        (KEYS.feed("alice"), 60, None),
        (KEYS.live("bob"), 60, "has sent nothing"),
        (KEYS.turns, None, "nothing is under way"),
        (KEYS.schedule, None, None),
        (KEYS.stops, None, "no known kind"),
        ("other", None, "nobody's key"),
    ],
)
def test_a_key_must_have_a_reason_and_a_due_end(key: str, ttl_s: int | None, wrong: str | None):
    found = wrong_key(key.encode(), -1 if ttl_s is None else ttl_s * 1000, TURNS, {"alice"})
    assert found is None if wrong is None else wrong in str(found)

"""Target tracking, minute by minute."""

from __future__ import annotations

from kdcube.capacity.scaling import TargetTracking
from kdcube.capacity.scenario import Scaling

SETTINGS = Scaling(
    signal="load_per_slot", target=0.5, min_tasks=2, max_tasks=20,
    scale_out_cooldown_s=150, scale_in_cooldown_s=120, scale_in_share=0.1,
)  # fmt: skip


def course(policy: TargetTracking, *values: float | None, first_minute: int = 1) -> list[int]:
    return [policy.observe(60.0 * (first_minute + n), value) for n, value in enumerate(values)]


def test_three_minutes_above_the_target_scale_out_in_proportion() -> None:
    assert course(TargetTracking(SETTINGS, 4), 1.0, 1.0, 1.0) == [4, 4, 8]
    assert course(TargetTracking(SETTINGS, 4), 1.0, 0.4, 1.0, 1.0) == [4, 4, 4, 4]


def test_within_the_cooldown_only_a_larger_step_adds_to_it() -> None:
    """The step is counted from the capacity before: 4 tasks at 1.0 want 8, at 1.5 they want 12, not 16."""
    assert course(TargetTracking(SETTINGS, 4), 1.0, 1.0, 1.0, 1.0, 1.5) == [4, 4, 8, 8, 12]
    assert course(TargetTracking(SETTINGS, 4), 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)[-1] == 16  # the cooldown is over


def test_never_beyond_the_bounds() -> None:
    assert course(TargetTracking(SETTINGS, 4), *[9.0] * 10)[-1] == 20
    assert course(TargetTracking(SETTINGS, 4), *[0.0] * 60)[-1] == 2


def test_scaling_in_takes_fifteen_minutes_and_goes_gradually() -> None:
    desired = course(TargetTracking(SETTINGS, 20), *[0.1] * 19)
    assert desired == [20] * 14 + [18, 18, 17, 17, 16]


def test_just_below_the_target_nothing_is_taken_away() -> None:
    assert course(TargetTracking(SETTINGS, 8), *[0.47] * 40)[-1] == 8


def test_without_data_nothing_happens() -> None:
    policy = TargetTracking(SETTINGS, 8)
    assert course(policy, *[None] * 40) == [8] * 40
    assert course(policy, 1.0, 1.0, None, None, 1.0) == [8, 8, 8, 8, 16]  # the three that are there

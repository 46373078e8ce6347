"""What the scheduler of classes accepts."""

from __future__ import annotations

import math

import pytest

from kdcube.redis.queue import ClassShare


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_weight_that_would_stop_a_class_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be above 0"):
        ClassShare(weight)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, math.nan])
def test_a_share_that_is_no_part_of_the_slots_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be above 0"):
        ClassShare(1, share)

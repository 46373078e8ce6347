"""Named sets of defaults. What a configuration gives wins over its profile, and that over the fields' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Profile(StrEnum):
    """What a configuration starts from."""

    DEVELOPMENT = "development"
    """For a laptop: nobody is in the way of somebody who tries things."""
    TESTING = "testing"
    """For staging: the pressure of production, the rates of development."""
    PRODUCTION = "production"
    """For many users who do not know each other: short queues, and nobody takes what others need."""
    LOAD_TEST = "load_test"
    """For measuring: no rates, one threshold for all, a long queue."""


_PRESSURE: Mapping[str, Any] = {
    "capacity_buffer": 0.2,
    "queue_depth_multiplier": 5.0,
    "anonymous_pressure_threshold": 0.5,
    "registered_pressure_threshold": 0.75,
    "paid_pressure_threshold": 0.85,
    "hard_limit_threshold": 0.95,
}
_NO_RATE: Mapping[str, Any] = {"hourly": -1, "burst": -1}

PROFILES: Mapping[Profile, Mapping[str, Any]] = {
    Profile.DEVELOPMENT: {},
    Profile.TESTING: {"backpressure": _PRESSURE},
    Profile.PRODUCTION: {
        "backpressure": _PRESSURE,
        "rate_limits": {
            "privileged": {"hourly": -1, "burst": 300},
            "paid": {"hourly": 4_000, "burst": 120},
            "registered": {"hourly": 1_000, "burst": 40},
            "external": {"hourly": 1_000, "burst": 40},
            "anonymous": {"hourly": 120, "burst": 10},
        },
    },
    Profile.LOAD_TEST: {
        "backpressure": {
            "capacity_buffer": 0.0,
            "queue_depth_multiplier": 1_000.0,
            "anonymous_pressure_threshold": 0.97,
            "registered_pressure_threshold": 0.97,
            "paid_pressure_threshold": 0.97,
            "hard_limit_threshold": 0.97,
        },
        "rate_limits": {
            "privileged": _NO_RATE,
            "paid": _NO_RATE,
            "registered": _NO_RATE,
            "external": _NO_RATE,
            "anonymous": _NO_RATE,
        },
        "limits": {"max_queue_size": 1_000_000, "max_live_turns_per_user": 1_000_000},
    },
}

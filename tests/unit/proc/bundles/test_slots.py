"""How slots are divided among bundles."""

from __future__ import annotations

import pytest

from kdcube.proc.bundles.slots import room_of


@pytest.mark.parametrize(
    ("slots", "held", "in_use", "room"),
    [
        (16, {"a": 0, "b": 0}, set(), {"a": 16, "b": 16}),
        (16, {"a": 9, "b": 0}, {"a"}, {"a": 7, "b": 7}),
        (16, {"a": 12, "b": 0}, {"a", "b"}, {"a": 0, "b": 4}),  # a hangs: b has its four
        (16, {"a": 12, "b": 1}, {"a", "b"}, {"a": 0, "b": 3}),
        (16, {"a": 6, "b": 6}, {"a", "b"}, {"a": 4, "b": 4}),  # both have theirs: the rest is anybody's
        (16, {"a": 10, "b": 0, "c": 4}, {"a", "b", "c"}, {"a": 0, "b": 2, "c": 0}),  # two for each of two others
        (4, {"a": 3, "b": 0}, {"a", "b"}, {"a": 0, "b": 1}),
        (2, {"a": 1, "b": 0, "c": 0}, {"a", "b", "c"}, {"a": 0, "b": 1, "c": 1}),
        (1, {"a": 0, "b": 0}, {"a", "b"}, {"a": 1, "b": 1}),
        (2, {"a": 3, "b": 0}, {"a", "b"}, {"a": 0, "b": 0}),  # slots were taken away
    ],
)
def test_room(slots, held, in_use, room):
    assert room_of(slots, held, in_use) == room


def test_whatever_hangs_every_bundle_in_use_has_a_slot_in_time():
    """Three bundles whose turns never end take what they can; the fourth, in use, always finds its part."""
    held = {"a": 0, "b": 0, "c": 0, "d": 0}
    while any(room_of(12, held, set(held))[hangs] for hangs in "abc"):
        for hangs in "abc":
            held[hangs] += bool(room_of(12, held, set(held))[hangs])
    assert room_of(12, held, set(held))["d"] == 1

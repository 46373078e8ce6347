"""How the slots of a proc are divided among its bundles. Pure.

Whoever has turns takes what is free, but for a small part that is kept for the other bundles which are in use here: a
bundle whose turns hang shall not hold all slots. For these, together, a quarter of the slots is kept, and one for each
at least; a bundle that runs alone has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

IN_USE_S = 900.0
"""A bundle is in use for so long after a turn of it was begun here."""
_KEPT = 4


def room_of(slots: int, held: Mapping[str, int], in_use: set[str]) -> dict[str, int]:
    """How many turns of each bundle of ``held``, which says what each holds, may begin now."""
    free = slots - sum(held.values())
    return {bundle_id: _room(bundle_id, slots, free, held, in_use - {bundle_id}) for bundle_id in held}


def _room(bundle_id: str, slots: int, free: int, held: Mapping[str, int], others: set[str]) -> int:
    if free <= 0 or not others:
        return max(0, free)
    own = max(1, slots // (_KEPT * len(others)))
    kept = sum(max(0, own - held.get(other, 0)) for other in others)
    return min(free, max(0, own - held[bundle_id], free - kept))

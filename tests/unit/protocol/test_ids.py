"""Ids that derive from a user's key."""

from __future__ import annotations

import uuid

from kdcube.protocol.ids import conversation_id_for, new_id, turn_id_for


def test_a_turns_id_is_the_uuid5_of_its_users_key() -> None:
    turns = uuid.UUID("5d0a7bd0-21d5-5a5e-9d4e-1f6f6d1b9a01")
    for number in range(200):
        key = f"turn_{number}"
        derived = turn_id_for("acme", "main", "ada", key)
        assert derived == uuid.uuid5(turns, f"acme\x1fmain\x1fada\x1f{key}").hex
        assert derived != conversation_id_for("acme", "main", "ada", key)


def test_without_a_key_an_id_is_random() -> None:
    assert len({turn_id_for("acme", "main", "ada", None) for _ in range(100)} | {new_id()}) == 101

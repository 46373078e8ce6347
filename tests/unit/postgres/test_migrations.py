"""The names and the order of migrations."""

from __future__ import annotations

import pytest

from kdcube.postgres.migrate import MigrationError, shipped, sorted_migrations


def test_by_number_then_pre_before_post() -> None:
    names = ["0002_pre_b.sql", "0001_post_a.sql", "0001_pre_z.sql", "0010_pre_c.sql"]
    ordered = [migration.name for migration in sorted_migrations((name, "") for name in names)]
    assert ordered == ["0001_pre_z", "0001_post_a", "0002_pre_b", "0010_pre_c"]


@pytest.mark.parametrize("name", ["1_pre_a.sql", "0001_a.sql", "0001_during_a.sql", "0001_pre_a.txt", "README"])
def test_another_name_is_an_error(name: str) -> None:
    with pytest.raises(MigrationError, match=name):
        sorted_migrations([(name, "")])


def test_numbers_of_the_shipped_ones_are_used_once_per_phase() -> None:
    keys = [(migration.name[:4], migration.phase) for migration in shipped()]
    assert len(set(keys)) == len(keys)

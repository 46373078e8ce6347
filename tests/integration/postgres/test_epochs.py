"""Epochs rise, are published forward only, and belong to a partition."""

from __future__ import annotations

import pytest

from kdcube.postgres.database import Database
from kdcube.postgres.epochs import Epochs

pytestmark = pytest.mark.anyio


async def test_epochs_rise_and_only_forward(database: Database) -> None:
    epochs = Epochs(database, "t", "p")
    assert await epochs.current() == 0
    first, second = await epochs.next(), await epochs.next()
    assert 0 < first < second
    assert await epochs.publish(second)
    assert not await epochs.publish(second)
    assert not await epochs.publish(first)
    assert await epochs.current() == second


async def test_partitions_and_projects_have_their_own(database: Database) -> None:
    await Epochs(database, "t", "p").publish(5)
    assert await Epochs(database, "t", "p", partition=1).current() == 0
    assert await Epochs(database, "t", "q").current() == 0

"""Epochs: which life of Valkey is the current one (rule 13)."""

from __future__ import annotations

from kdcube.postgres.database import Database
from kdcube.postgres.queries import load_queries


class Epochs:
    """The epochs of one partition of a tenant and project."""

    def __init__(self, database: Database, tenant: str, project: str, partition: int = 0) -> None:
        self._database = database
        self._key = (tenant, project, partition)
        self._sql = load_queries("epochs")

    async def next(self) -> int:
        """A fresh epoch, greater than every earlier one; nothing is published."""
        row = await self._database.fetch_one(self._sql["next_epoch"])
        assert row is not None
        return row["epoch"]

    async def publish(self, epoch: int) -> bool:
        """Makes ``epoch`` the current one: STARTs under another are refused. False when it, or a later one, stands."""
        return await self._database.fetch_one(self._sql["publish_epoch"], *self._key, epoch) is not None

    async def current(self) -> int:
        """The published epoch; 0 before the first."""
        row = await self._database.fetch_one(self._sql["current_epoch"], *self._key)
        return row["epoch"] if row else 0

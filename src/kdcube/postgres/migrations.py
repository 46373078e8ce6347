"""Brings a database's schema up to this release."""

from __future__ import annotations


async def migrate(dsn: str) -> list[str]:
    """Applies what is missing, in order, and returns the names. Raises MigrationError, StoreUnavailable."""
    raise NotImplementedError

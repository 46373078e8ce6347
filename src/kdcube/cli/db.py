"""``kdcube db``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Self

from kdcube.cli.settings import check_given_database, local_settings
from kdcube.config.environment import Environment
from kdcube.config.load import load
from kdcube.config.service import read_database_url
from kdcube.local.home import Home
from kdcube.local.postgres import running_dsn
from kdcube.postgres.migrate import migrate
from kdcube.protocol.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class _DatabaseSettings:
    """The database that the environment names, if it does."""

    url: str | None = field(repr=False)

    @classmethod
    def read(cls, environment: Environment) -> Self:
        named = environment.optional("DATABASE_URL") or environment.optional("POSTGRES_HOST")
        return cls(read_database_url(environment) if named else None)


def upgrade(*, database_url: str | None = None) -> None:
    """Bring the schema up to this release. Running it again does no harm.

    Parameters
    ----------
    database_url
        The database; by default the one of DATABASE_URL or POSTGRES_HOST, else the running embedded one.
    """
    check_given_database(database_url)
    url = database_url or load(_DatabaseSettings).url or running_dsn(Home(local_settings().home).postgres)
    if url is None:
        raise InvalidInput("database_url", "there is no database: give --database-url, or set DATABASE_URL")
    applied = asyncio.run(migrate(url))
    print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")

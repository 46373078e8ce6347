"""Environments of bundles: which indexes their packages come from, and what building one may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from kdcube.config.environment import Environment
from kdcube.config.git import read_network
from kdcube.protocol.errors import ConfigurationError

ENVIRONMENT_VARIABLES = (
    *("KDCUBE_ENVIRONMENT_TIMEOUT_SEC", "KDCUBE_ENVIRONMENTS_MAX_BYTES", "KDCUBE_BAKED_ENVIRONMENTS"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_OFFLINE", "UV_NO_BUILD", "NETRC"),
)
"""All that ``EnvironmentSettings`` reads, with the proxies and authorities of ``GIT_VARIABLES``."""

_CREDENTIALS = re.compile(r"://[^/\s]*@")
_PLACE = re.compile(r"([A-Za-z0-9_-]+=)?(https?://|file:///|/)[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """How proc builds environments."""

    timeout_s: float = 600.0
    """KDCUBE_ENVIRONMENT_TIMEOUT_SEC: for building one, and for waiting until another process has built it."""
    max_bytes: int = 20 << 30
    """KDCUBE_ENVIRONMENTS_MAX_BYTES: of one, and of all that nobody runs."""
    max_processes: int = 256
    """Of one build."""
    max_memory_bytes: int = 4 << 30
    """Of all processes of one build."""
    baked: Path | None = None
    """KDCUBE_BAKED_ENVIRONMENTS: a folder with environments that were built before; never written."""
    indexes: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    """UV_DEFAULT_INDEX, UV_INDEX and UV_FIND_LINKS: for uv alone, as they may hold credentials."""
    netrc: Path | None = None
    """NETRC: a file with credentials of indexes."""
    offline: bool = False
    """UV_OFFLINE: nothing is asked for over the network."""
    no_build: bool = False
    """UV_NO_BUILD: only wheels are installed, so that no code of a package runs while it is installed."""
    network: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Proxies and authorities of this place."""

    @property
    def indexes_alone(self) -> bool:
        """All packages come from the installation's indexes: addresses in a lock do not count, its hashes do."""
        return self.offline or "UV_DEFAULT_INDEX" in self.indexes or "UV_FIND_LINKS" in self.indexes

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may repeat: the indexes with credentials, and these by themselves."""
        values = [value.get_secret_value() for value in self.indexes.values()]
        places = [place for value in values for place in re.split(r"[\s,]+", value) if _CREDENTIALS.search(place)]
        users = [place.partition("://")[2].rpartition("@")[0] for place in places]
        return (*places, *users, *(user.partition(":")[2] for user in users if ":" in user))

    @classmethod
    def read(cls, environment: Environment) -> Self:
        """Raises ConfigurationError."""
        given = {
            "UV_DEFAULT_INDEX": environment.secret("UV_DEFAULT_INDEX"),
            "UV_INDEX": environment.secret("UV_INDEX"),
            "UV_FIND_LINKS": environment.secret("UV_FIND_LINKS"),
        }
        indexes = {
            name: value for name, value in given.items() if value is not None and value.get_secret_value().strip()
        }
        for name, value in indexes.items():
            _check(name, value.get_secret_value())
        netrc = environment.path("NETRC")
        if netrc is not None and not netrc.is_file():
            raise ConfigurationError("NETRC", f"is {netrc}, which is no file")
        holds_credentials = netrc is not None or any(
            _CREDENTIALS.search(value.get_secret_value()) for value in indexes.values()
        )
        return cls(
            timeout_s=environment.seconds("KDCUBE_ENVIRONMENT_TIMEOUT_SEC", 600.0, minimum=1, maximum=86_400),
            max_bytes=environment.integer("KDCUBE_ENVIRONMENTS_MAX_BYTES", 20 << 30, minimum=1 << 20, maximum=1 << 50),
            baked=environment.path("KDCUBE_BAKED_ENVIRONMENTS"),
            indexes=indexes,
            netrc=None if netrc is None else netrc.absolute(),
            offline=environment.flag("UV_OFFLINE", False),
            no_build=environment.flag("UV_NO_BUILD", holds_credentials),
            network={name: value for name, value in read_network(environment).items() if not name.startswith("GIT_")},
        )


def _check(name: str, value: str) -> None:
    """Raises ConfigurationError, which does not repeat ``value``."""
    places = [place for place in re.split(r"[\s,]+" if name != "UV_DEFAULT_INDEX" else r"\s+", value) if place]
    if name == "UV_DEFAULT_INDEX" and len(places) != 1:
        raise ConfigurationError(name, "names more than one index; give the others as UV_INDEX")
    for place in places:
        if not _PLACE.fullmatch(place):
            what = "a folder by its absolute path, or a URL" if name == "UV_FIND_LINKS" else "a URL"
            raise ConfigurationError(name, f"holds something that is no place of packages; give {what}")

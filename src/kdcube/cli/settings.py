"""The environment of the laptop's commands."""

from __future__ import annotations

from kdcube.config.load import load
from kdcube.config.service import check_database_url
from kdcube.local.settings import CheckSettings, LocalSettings
from kdcube.protocol.errors import ConfigurationError, InvalidInput


def local_settings() -> LocalSettings:
    """Raises InvalidInput, which names the variable: here, unlike in a service, it is what the caller has given."""
    try:
        return load(LocalSettings)
    except ConfigurationError as error:
        raise InvalidInput(error.name, str(error)) from error


def check_settings() -> CheckSettings:
    """The same for checking a bundle, which needs less."""
    try:
        return load(CheckSettings)
    except ConfigurationError as error:
        raise InvalidInput(error.name, str(error)) from error


def check_given_database(url: str | None) -> None:
    """That of ``--database-url``. Raises InvalidInput."""
    try:
        if url is not None:
            check_database_url(url)
    except ConfigurationError as error:
        raise InvalidInput("database_url", str(error)) from error

"""The environment of the laptop's commands."""

from __future__ import annotations

from kdcube.config.load import load
from kdcube.local.settings import LocalSettings
from kdcube.protocol.errors import ConfigurationError, InvalidInput


def local_settings() -> LocalSettings:
    """Raises InvalidInput, which names the variable: here, unlike in a service, it is what the caller has given."""
    try:
        return load(LocalSettings)
    except ConfigurationError as error:
        raise InvalidInput(error.name, str(error)) from error

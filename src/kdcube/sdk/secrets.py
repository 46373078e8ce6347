"""The secrets that a bundle is granted by name."""

from __future__ import annotations

from collections.abc import Mapping


class SecretNotGranted(LookupError):
    """The bundle asked for a secret that its registry entry does not grant, or that is set nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the secret {name!r} is not granted to this bundle: name it under `secrets` in its registry entry, "
            "and set it"
        )
        self.name = name


class SecretUnavailable(LookupError):
    """The secret is granted, but its value could not be read when the turn began. ``reason`` holds nothing of it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the secret {name!r} cannot be read now: {reason}")
        self.name = name
        self.reason = reason


def read_secret(secrets: Mapping[str, str], unreadable: Mapping[str, str], name: str) -> str:
    """Raises SecretNotGranted, SecretUnavailable."""
    value = secrets.get(name)
    if value is not None:
        return value
    if name in unreadable:
        raise SecretUnavailable(name, unreadable[name])
    raise SecretNotGranted(name)

"""The secrets that a bundle is granted by name."""

from __future__ import annotations

from collections.abc import Mapping


class SecretNotGranted(LookupError):
    """The bundle asked for a secret that its registry entry does not grant."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the secret {name!r} is not granted to this bundle: name it under `secrets` in its registry entry"
        )
        self.name = name


def read_secret(secrets: Mapping[str, str], name: str) -> str:
    """Raises SecretNotGranted."""
    try:
        return secrets[name]
    except KeyError:
        raise SecretNotGranted(name) from None

"""What a vault is: it holds values of secrets by name."""

from __future__ import annotations

from typing import Protocol

from kdcube.config.secrets import SecretReference
from kdcube.protocol.errors import KDCubeError

MAX_BYTES = 65_536
"""Of one secret, as in Secrets Manager."""


class SecretUnreadable(KDCubeError):
    """The value of a secret cannot be read. Names the secret; never holds anything of a value.

    ``away``: the vault could not be asked, so that a value which was read before may still be right. Otherwise the
    vault has said no: there is no such secret, or it may not be read.
    """

    def __init__(self, reference: SecretReference, reason: str, *, away: bool = False) -> None:
        super().__init__(f"the secret {reference} cannot be read: {reason}")
        self.reference = reference
        self.reason = reason
        self.away = away


class Unset(SecretUnreadable):
    """Nothing was set under a plain name."""


class OpenVault(Protocol):
    """Reads values. ``keeps_s``: for how long a value counts; None: as long as the process lives."""

    keeps_s: float | None

    async def read(self, reference: SecretReference) -> str:
        """What it holds under ``reference.name``; its key is the caller's. Never blocks. Raises SecretUnreadable."""
        ...

    def close(self) -> None: ...

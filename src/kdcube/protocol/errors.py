"""The root of the errors that this product raises. Transport-free: only ingress maps them to HTTP."""

from __future__ import annotations


class KDCubeError(Exception):
    """Something in KDCube failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class InvalidInput(KDCubeError):
    """The input is not valid."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class StoreUnavailable(KDCubeError):
    """A store cannot be reached or did not answer in time; the outcome of what was sent is unknown.

    ``refused``: nothing was sent, as the store is known to be away.
    """

    def __init__(self, store: str, message: str, *, refused: bool = False) -> None:
        super().__init__(f"{store}: {message}")
        self.store = store
        self.refused = refused


class EpochMismatch(KDCubeError):
    """Valkey was lost or is being rebuilt: its epoch is not the one that the caller works under."""


class ConfigurationError(KDCubeError):
    """A setting is missing or has a value that is not allowed."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name

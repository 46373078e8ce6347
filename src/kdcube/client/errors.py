"""How a request to an installation fails."""

from __future__ import annotations

from kdcube.protocol.errors import KDCubeError

_PASSING = frozenset(
    {"outcome_unknown", "store_unavailable", "rebuilding", "draining", "too_many_streams", "bundle_preparing"}
)
"""What a 503 says that passes by itself: a store, a process or a bundle is being brought up."""


class ClientError(KDCubeError):
    """An installation could not be asked."""


class Unreachable(ClientError):
    """No connection, or it was lost and did not come back in time. What was sent may have arrived.

    ``nobody``: nothing listens there.
    """

    def __init__(self, url: str, reason: str, *, nobody: bool = False) -> None:
        super().__init__(f"{url} cannot be reached: {reason}")
        self.url = url
        self.nobody = nobody


class Refused(ClientError):
    """The installation has answered, and says no.

    ``error`` is the word to branch on (empty when the answer is not KDCube's), ``field`` what is wrong with the input,
    ``retry_after_s`` when to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error: str = "",
        field: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = error
        self.field = field
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    @property
    def passing(self) -> bool:
        """Whether the same request, with the same key, is worth repeating at once."""
        return self.status in (502, 504) or (self.status == 503 and (not self.error or self.error in _PASSING))

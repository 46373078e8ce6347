"""AUTH_PROVIDER=simple: tokens in a file. For development and small installations."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.identity.authenticator import Identity
from kdcube.protocol.errors import ConfigurationError, InvalidInput
from kdcube.protocol.ids import check_user_id

VARIABLE = "IDP_DB_PATH"
_LOOK_AGAIN_S = 1.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class _Entry(msgspec.Struct):
    sub: str
    username: str | None = None
    email: str | None = None
    roles: tuple[str, ...] = ()


_DECODER = msgspec.json.Decoder(dict[str, _Entry])


class TokenFile:
    """``{token: {sub, username, email, roles[]}}``, read again when it changes; a broken change keeps what was there.

    Raises ConfigurationError when it cannot be read at first.
    """

    breaker = None

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._version: tuple[int, ...] | None = None
        self._identities: dict[str, Identity] = {}
        self._look_again_at = 0.0
        self._read()

    async def authenticate(self, token: str | None, id_token: str | None = None) -> Identity | None:
        """A token of the file says it all: with one, nothing is asked of an id token."""
        if self._monotonic() >= self._look_again_at:
            try:
                self._read()
            except ConfigurationError as error:
                logger.error("identity.token_file_unreadable", reason=str(error))
        return self._identities.get(token or id_token or "")

    def _read(self) -> None:
        self._look_again_at = self._monotonic() + _LOOK_AGAIN_S
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version == self._version:
                return
            self._version = version
            entries = _DECODER.decode(self._path.read_bytes())
            self._identities = {token: _identity(entry) for token, entry in entries.items()}
        except OSError as error:
            raise ConfigurationError(VARIABLE, f"cannot read {self._path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput):
            # Without the reason: it may quote a token.
            raise ConfigurationError(
                VARIABLE, f"{self._path} is not {{token: {{sub, username, email, roles[]}}}}"
            ) from None


def _identity(entry: _Entry) -> Identity:
    return Identity(check_user_id("sub", entry.sub), entry.username, entry.email, entry.roles)

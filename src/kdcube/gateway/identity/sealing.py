"""Seals what must be secret and genuine wherever it is stored: AES-256-GCM under keys that rotate.

The first key seals; all of them open. What is sealed says which key it needs, and opens only in the context in which it
was sealed: copied into another row, or another column, it is worthless.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kdcube.protocol.errors import KDCubeError

KEY_BYTES = 32

_VERSION = b"\x01"
_ID_BYTES = 6
_NONCE_BYTES = 12
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _NONCE_BYTES


class Unsealable(KDCubeError):
    """It was not sealed here, for this place, by a key that is known."""


class Keyring:
    """``keys`` of KEY_BYTES each, newest first. Context parts hold no control characters."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._current = _id_of(keys[0])
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}

    @property
    def current(self) -> str:
        """Names the key that seals now; it says nothing about it."""
        return self._current.hex()

    def seal(self, data: bytes, *context: str) -> bytes:
        head = _VERSION + self._current
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self._ciphers[self._current].encrypt(nonce, data, _bound(head, context))

    def unseal(self, sealed: bytes, *context: str) -> bytes:
        """Raises Unsealable."""
        head, nonce = sealed[: _HEAD_BYTES - _NONCE_BYTES], sealed[_HEAD_BYTES - _NONCE_BYTES : _HEAD_BYTES]
        cipher = self._ciphers.get(head[len(_VERSION) :])
        if cipher is None or head[: len(_VERSION)] != _VERSION or len(nonce) < _NONCE_BYTES:
            raise Unsealable
        try:
            return cipher.decrypt(nonce, sealed[_HEAD_BYTES:], _bound(head, context))
        except InvalidTag:
            raise Unsealable from None


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"kdcube sealing key\x1f" + key).digest()[:_ID_BYTES]


def _bound(head: bytes, context: tuple[str, ...]) -> bytes:
    return head + "\x1f".join(context).encode()

"""The text of an API key: ``kdk_<id>_<secret>``, whose last six characters are a checksum.

By its beginning scanners for leaked secrets know it, and by its checksum a typo is told from a key without asking a
store. All parts are letters and digits, so that a double click selects the whole.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "kdk_"
ID_CHARS = 12
SECRET_CHARS = 43
"""Of 62 letters and digits: 256 bits."""
CHECKSUM_CHARS = 6

_ALPHABET = string.digits + string.ascii_letters
_FORM = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{ID_CHARS}}})_([0-9A-Za-z]{{{SECRET_CHARS}}})([0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key that may exist. ``secret_hash`` is what is stored."""

    key_id: str
    secret_hash: bytes = field(repr=False)


def new_key() -> tuple[str, KeyText]:
    """The text, to be shown once, and what to keep of it."""
    key_id, secret = _random(ID_CHARS), _random(SECRET_CHARS)
    body = f"{PREFIX}{key_id}_{secret}"
    return body + _checksum(body), KeyText(key_id, _hash(secret))


def looks_like_key(token: str) -> bool:
    """Whether it claims to be a key, a good one or not."""
    return token.startswith(PREFIX)


def parse_key(token: str) -> KeyText | None:
    """None for what cannot be a key: it is misspelt, cut, or made up."""
    match = _FORM.fullmatch(token)
    if match is None or _checksum(token[:-CHECKSUM_CHARS]) != match[3]:
        return None
    return KeyText(match[1], _hash(match[2]))


def _random(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits

"""Identifiers: how they are made and which spellings are accepted.

Separators in Valkey's ordered members are control characters, so no identifier may hold one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid

from kdcube.protocol.errors import InvalidInput

_TURNS = uuid.UUID("5d0a7bd0-21d5-5a5e-9d4e-1f6f6d1b9a01")
_CONVERSATIONS = uuid.UUID("5d0a7bd0-21d5-5a5e-9d4e-1f6f6d1b9a02")
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
SCOPE_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_SCOPE = re.compile(SCOPE_PATTERN)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
USER_ID_MAX_CHARS = 256
_VERSION_AND_VARIANT = 0xF << 76 | 0b11 << 62
_UUID5 = 5 << 76 | 0b10 << 62


def new_id() -> str:
    """A random identifier: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def turn_id_for(tenant: str, project: str, user_id: str, key: str | None) -> str:
    """The internal turn id: UUIDv5 of the user's key, so that the same send names the same turn on every replica.

    ``key`` is the Idempotency-Key or else the client's turn id; without one the id is random.
    """
    return _derived(_TURNS, tenant, project, user_id, key)


def conversation_id_for(tenant: str, project: str, user_id: str, key: str | None) -> str:
    """The id of a conversation that the server opens. It derives from the key as well: a repeat opens no second one."""
    return _derived(_CONVERSATIONS, tenant, project, user_id, key)


def _derived(namespace: uuid.UUID, tenant: str, project: str, user_id: str, key: str | None) -> str:
    if key is None:
        return new_id()
    name = "\x1f".join((tenant, project, user_id, key)).encode()
    digest = hashlib.sha1(namespace.bytes + name, usedforsecurity=False).digest()
    # As uuid.uuid5, in a sixth of its time: the version is 5, the variant that of RFC 9562.
    return f"{int.from_bytes(digest[:16]) & ~_VERSION_AND_VARIANT | _UUID5:032x}"


def check_client_id(field: str, value: str) -> str:
    """A turn, conversation, stream or idempotency id from a client: 1 to 128 of ``A-Za-z0-9._:@+=-``.

    Raises InvalidInput, naming ``field``.
    """
    if not _CLIENT_ID.fullmatch(value):
        raise InvalidInput(
            field, f"{field} must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ + = - and start with a letter or digit"
        )
    return value


def check_bundle_id(field: str, value: str) -> str:
    """A bundle id such as ``support@1.2.0``: the spelling of a client id. Raises InvalidInput."""
    return check_client_id(field, value)


def check_scope(field: str, value: str) -> str:
    """A tenant or project name: 1 to 63 of ``A-Za-z0-9._-``. Raises InvalidInput."""
    if not _SCOPE.fullmatch(value):
        raise InvalidInput(
            field, f"{field} must be 1 to 63 characters of A-Z a-z 0-9 . _ - and start with a letter or digit"
        )
    return value


def check_user_id(field: str, value: str) -> str:
    """A subject from an identity provider: at most 256 characters, no control characters. Raises InvalidInput."""
    if not value or len(value) > USER_ID_MAX_CHARS or _CONTROL.search(value):
        raise InvalidInput(field, f"{field} must be 1 to {USER_ID_MAX_CHARS} characters without control characters")
    return value

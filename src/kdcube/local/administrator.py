"""The key by which the commands of this machine administer the installation that runs on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.identity.authenticator import SERVICE
from kdcube.gateway.identity.key_text import new_key, parse_key
from kdcube.gateway.identity.scopes import Scope
from kdcube.local.home import Home
from kdcube.postgres.api_keys import StoredKey, StoredKeys, TooMany
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import open_database
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.turns import UserType

_NAME = "kdcube-up"
_LIFE_MS = 366 * 86_400_000
_LEFT_MS = 30 * 86_400_000
"""A key that has less of its life left is replaced."""


class NoKey(KDCubeError):
    """The key for this machine's commands cannot be made."""


async def keep_administrator(home: Home, database_url: str, gateway: GatewayConfig) -> None:
    """Sees to it that the file ``home.admin_key``, which its owner alone can read, holds an API key that administers
    and has a while to live. Raises NoKey, StoreUnavailable.
    """
    scope = (gateway.tenant, gateway.project)
    now_ms = int(time.time() * 1000)
    async with open_database(database_url, max_size=1, name="kdcube-up") as database:
        stored = StoredKeys(database, Audit(database, *scope), *scope)
        known = parse_key(read_key(home) or "")
        key = None if known is None else await stored.find(known.key_id)
        actor = Actor(f"system:{_NAME}")
        if key is not None and known is not None and key.secret_hash == known.secret_hash and key.revoked_ms is None:
            if key.expires_ms > now_ms + _LEFT_MS:
                return
            await stored.revoke(key.key_id, actor, now_ms)
        text, parts = new_key()
        new = StoredKey(
            key_id=parts.key_id,
            secret_hash=parts.secret_hash,
            name=f"the commands of {home.path}",
            user_id=SERVICE + _NAME,
            username=_NAME,
            email=None,
            user_type=UserType.PRIVILEGED,
            roles=("kdcube:role:admin",),
            scopes=(Scope.ADMIN,),
            created_by=actor.id,
            created_ms=now_ms,
            expires_ms=now_ms + _LIFE_MS,
        )
        if isinstance(await stored.add(new, actor), TooMany):
            raise NoKey(f"{SERVICE}{_NAME} has too many API keys: revoke those that are not used, in /admin/api-keys")
    _write(home.admin_key, text)


def read_key(home: Home) -> str | None:
    """None when `kdcube up` has never run there, or the file is not the caller's."""
    try:
        return home.admin_key.read_text().strip() or None
    except OSError:
        return None


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)

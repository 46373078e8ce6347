"""The token file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdcube.gateway.identity.authenticator import Identity, user_type_of
from kdcube.gateway.identity.simple import TokenFile
from kdcube.protocol.errors import ConfigurationError
from kdcube.protocol.turns import UserType

pytestmark = pytest.mark.anyio


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, tokens: object) -> None:
    path.write_text(tokens if isinstance(tokens, str) else json.dumps(tokens))
    os.utime(path, ns=(path.stat().st_mtime_ns + 1_000_000,) * 2)


async def test_a_token_is_looked_up_and_the_file_read_again_when_it_changes(tmp_path: Path) -> None:
    path, time = tmp_path / "tokens.json", Time()
    write(path, {"t1": {"sub": "u1", "username": "one", "email": "1@x", "roles": ["a"], "more": 1}})
    tokens = TokenFile(path, monotonic=time)
    assert await tokens.authenticate("t1") == Identity("u1", "one", "1@x", ("a",))
    assert await tokens.authenticate("t2") is None
    write(path, {"t2": {"sub": "u2"}})
    assert await tokens.authenticate("t2") is None
    time.now = 2
    assert await tokens.authenticate("t2") == Identity("u2")
    assert await tokens.authenticate("t1") is None


@pytest.mark.parametrize("broken", ["{", "[]", '{"t": {}}', '{"t": {"sub": "a\\u0001"}}', '{"t": {"sub": 1}}'])
async def test_a_broken_file_stops_the_start_but_not_the_service(tmp_path: Path, broken: str) -> None:
    path, time = tmp_path / "tokens.json", Time()
    write(path, broken)
    with pytest.raises(ConfigurationError, match="IDP_DB_PATH"):
        TokenFile(path)
    write(path, {"t1": {"sub": "u1"}})
    tokens = TokenFile(path, monotonic=time)
    write(path, broken)
    time.now = 2
    assert await tokens.authenticate("t1") is not None
    path.unlink()
    time.now = 4
    assert await tokens.authenticate("t1") is not None
    with pytest.raises(ConfigurationError, match="cannot read"):
        TokenFile(path)


@pytest.mark.parametrize(
    ("roles", "user_type"),
    [
        ([], UserType.REGISTERED),
        (["kdcube:role:chat"], UserType.REGISTERED),
        (["kdcube:role:paid"], UserType.PAID),
        (["kdcube:role:paid", "kdcube:role:admin"], UserType.PRIVILEGED),
        (["kdcube:role:super-admin"], UserType.PRIVILEGED),
    ],
)
def test_roles_give_the_user_type(roles: list[str], user_type: UserType) -> None:
    assert user_type_of(roles) is user_type

"""How long a value counts, and what follows when a vault says no or nothing."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from kdcube.config.bundles import BundleEntry
from kdcube.config.secrets import SecretReference, Vault
from kdcube.secrets.secrets import AHEAD, RETRY_S, Granted, Secrets
from kdcube.secrets.vault import SecretUnreadable, Unset

pytestmark = pytest.mark.anyio

KEEPS_S, STALE_S = 100.0, 1000.0
KEY = SecretReference("key", Vault.SECRETS_MANAGER)


class FakeVault:
    """``held``: what it holds; ``trouble``: what it raises instead; ``open``: it answers."""

    def __init__(self) -> None:
        self.keeps_s: float | None = KEEPS_S
        self.held: dict[str, str] = {}
        self.trouble: tuple[str, bool] | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[str] = []

    async def read(self, reference: SecretReference) -> str:
        self.asked.append(reference.name)
        await self.open.wait()
        if self.trouble is not None:
            raise SecretUnreadable(reference, self.trouble[0], away=self.trouble[1])
        if reference.name not in self.held:
            raise Unset(reference, "absent") if reference.vault is None else SecretUnreadable(reference, "absent")
        return self.held[reference.name]

    def close(self) -> None:
        self.open.set()


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.vault = FakeVault()
        self.vault.held["key"] = "hunter2"
        self.secrets = Secrets(
            dict.fromkeys((None, *Vault), self.vault), stale_s=STALE_S, clock=lambda: self.now, patience_s=0.01,
            read_limit_s=0.05,
        )  # fmt: skip

    async def settled(self) -> None:
        """What is being read has been read."""
        while readings := [kept.reading for kept in self.secrets._kept.values() if kept.reading]:
            await asyncio.wait(readings)

    async def away(self, reason: str = "throttled") -> None:
        self.vault.trouble = (reason, True)


@pytest.fixture
async def scene():
    scene = Scene()
    yield scene
    await scene.secrets.close()


async def test_it_is_read_once_for_all_who_wait_and_kept(scene):
    assert await asyncio.gather(*(scene.secrets.get("sm:key") for _ in range(20))) == ["hunter2"] * 20
    scene.now = KEEPS_S * AHEAD
    assert await scene.secrets.get(KEY) == "hunter2"
    assert scene.vault.asked == ["key"]


async def test_ahead_of_its_end_it_is_read_again_and_nobody_waits(scene):
    await scene.secrets.get(KEY)
    scene.vault.held["key"] = "new"
    scene.vault.open.clear()
    scene.now = KEEPS_S * AHEAD + 1
    assert await scene.secrets.get(KEY) == "hunter2"
    scene.vault.open.set()
    with capture_logs() as logs:
        await scene.settled()
    assert await scene.secrets.get(KEY) == "new"
    assert logs == [{"event": "secret_rotated", "secret": "sm:key", "log_level": "info"}]


async def test_after_its_end_a_rotated_value_counts_at_once(scene):
    await scene.secrets.get(KEY)
    scene.vault.held["key"] = "new"
    scene.now = KEEPS_S
    assert await scene.secrets.get(KEY) == "new"


async def test_while_the_vault_is_away_the_last_known_value_counts_for_a_bounded_time(scene):
    await scene.secrets.get(KEY)
    await scene.away()
    scene.now = KEEPS_S + STALE_S - 1
    with capture_logs() as logs:
        assert await scene.secrets.get(KEY) == "hunter2"
        scene.now += 1
        with pytest.raises(SecretUnreadable, match="the secret sm:key cannot be read: throttled") as error:
            await scene.secrets.get(KEY)
    assert error.value.away
    told = [{"secret": "sm:key", "reason": "throttled", "last_known_in_use": False}]
    assert scene.secrets.unreadable() == told
    assert [log["last_known_in_use"] for log in logs if log["event"] == "secret_not_read"] == [True]
    assert "hunter2" not in f"{logs} {error.value!r}"


async def test_a_vault_that_hangs_delays_those_who_have_a_value_but_little(scene):
    await scene.secrets.get(KEY)
    scene.vault.open.clear()
    scene.now = KEEPS_S
    assert await scene.secrets.get(KEY) == "hunter2"
    with pytest.raises(SecretUnreadable, match="no answer within"):
        await scene.secrets.get("sm:other")


async def test_it_is_asked_again_only_after_a_while(scene):
    await scene.away()
    for _ in range(3):
        with pytest.raises(SecretUnreadable):
            await scene.secrets.get(KEY)
    assert scene.vault.asked == ["key"]
    scene.vault.trouble = None
    scene.now = RETRY_S
    with capture_logs() as logs:
        assert await scene.secrets.get(KEY) == "hunter2"
    assert [log["event"] for log in logs] == ["secret_read_again"]
    assert scene.secrets.unreadable() == []


async def test_a_clear_no_counts_at_once(scene):
    await scene.secrets.get(KEY)
    scene.vault.trouble = ("this service's role may not read it", False)
    scene.now = KEEPS_S
    with pytest.raises(SecretUnreadable, match="may not read it"):
        await scene.secrets.get(KEY)
    scene.vault.trouble = ("throttled", True)
    scene.now += RETRY_S
    with pytest.raises(SecretUnreadable, match="throttled"):
        await scene.secrets.get(KEY)


async def test_members_of_an_object_are_read_with_it(scene):
    scene.vault.held["models"] = '{"openai": "hunter2", "count": 1, "empty": ""}'
    assert await scene.secrets.get("sm:models#openai") == "hunter2"
    for key in ("absent", "count", "empty"):
        with pytest.raises(SecretUnreadable, match=rf"sm:models#{key} .* no text under that key") as error:
            await scene.secrets.get(f"sm:models#{key}")
        assert "hunter2" not in str(error.value)
    with pytest.raises(SecretUnreadable, match="sm:key#a cannot be read: it is no JSON, so") as error:
        await scene.secrets.get("sm:key#a")
    assert "hunter2" not in str(error.value) and error.value.__cause__ is None
    assert scene.vault.asked == ["models", "key"]


async def test_a_bundle_is_given_what_can_be_read_and_told_of_the_rest(scene):
    scene.vault.held["pair"] = '{"a": "1", "b": "2"}'
    entry = BundleEntry.model_validate(
        {"id": "x", "path": "/x", "secrets": {"A": "sm:pair#a", "B": "ssm:pair#b", "C": "file:absent", "K": "env:key"}}
    )
    granted = await scene.secrets.grant(entry)
    assert granted == Granted({"A": "1", "B": "2", "K": "hunter2"}, {"C": "file:absent: absent"})
    assert "hunter2" not in repr(granted)
    named = BundleEntry.model_validate({"id": "x", "path": "/x", "secrets": ["key", "nowhere"]})
    assert await scene.secrets.grant(named) == Granted({"key": "hunter2"}, {})


async def test_what_nobody_asks_for_any_more_is_forgotten(scene):
    await scene.secrets.get(KEY)
    scene.now = KEEPS_S + STALE_S + 1
    scene.vault.held["other"] = "x"
    await scene.secrets.get("sm:other")
    assert list(scene.secrets._kept) == [SecretReference("other", Vault.SECRETS_MANAGER)]


async def test_closing_ends_what_is_being_read(scene):
    scene.vault.open.clear()
    waiting = asyncio.create_task(scene.secrets.get(KEY))
    while not scene.vault.asked:
        await asyncio.sleep(0)
    await scene.secrets.close()
    with pytest.raises(SecretUnreadable, match="no answer"):
        await waiting

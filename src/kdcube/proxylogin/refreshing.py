"""Keeps logins confirmed by the provider, behind the backs of their users: one refresher at a time for each of them.

PostgreSQL gives a login that is due to one refresher for longer than a question to the provider can take. What comes
back is stored if nobody has stored anything newer, whoever holds the refresh by then: a provider that rotates refresh
tokens takes the second use of one for theft, so the new one must not get lost.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.logins import decode_claims, seal_claims, unseal_claims
from kdcube.gateway.identity.sealing import Unsealable
from kdcube.postgres.audit import Actor
from kdcube.postgres.logins import DueLogin, EndedBy, EndedLogin, Logins, Sealed
from kdcube.protocol.errors import KDCubeError, StoreUnavailable
from kdcube.proxylogin.keeping import Keeping
from kdcube.proxylogin.provider import Granted, Refused, SignIns
from kdcube.redis.logins import LoginCache
from kdcube.telemetry.instruments import Instruments

AT_ONCE = 20
HELD_S = 45.0
"""Longer than a question to the provider with all its waiting."""
LOOK_MIN_S = 0.05
LOOK_MAX_S = 5.0
RETRY_MIN_S = 5.0
RETRY_MAX_S = 60.0
STORE_RETRY_S = 0.2
TIDY_EVERY_S = 60.0
KEPT_AFTER_END_S = 7 * 86_400
"""So that a browser that comes back hears what became of its login."""
RESEALED_AT_ONCE = 100

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Refresher:
    """``run`` it as long as the service lives; ``drain`` ends it and waits for what is under way at the provider."""

    def __init__(
        self,
        logins: Logins,
        cache: LoginCache,
        sign_ins: SignIns,
        keeping: Keeping,
        *,
        instance: str,
        instruments: Instruments,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._instruments = instruments
        self._logins = logins
        self._cache = cache
        self._sign_ins = sign_ins
        self._keeping = keeping
        self._name = f"{instance}/{secrets.token_hex(4)}"
        self._actor = Actor(f"system:{instance}")
        self._clock = clock
        self._stopping = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until ``drain``."""
        tidy_at = 0.0
        while not self._stopping.is_set():
            try:
                taken = await self.refresh_due()
                if self._clock() >= tidy_at:
                    await self.tidy()
                    tidy_at = self._clock() + TIDY_EVERY_S
                wait_s = 0.0 if taken == AT_ONCE else await self._until_due()
            except StoreUnavailable as error:
                logger.warning("proxylogin.refreshing_waits", reason=str(error))
                wait_s = LOOK_MAX_S
            await self._wait(wait_s)

    async def drain(self) -> None:
        """Takes nothing more; returns when all answers of the provider are stored."""
        self._stopping.set()
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def refresh_due(self) -> int:
        """Refreshes what is due and not another's; how many that was."""
        due = await self._logins.take_due(self._name, self._now_ms(), at_most=AT_ONCE, within_s=HELD_S)
        tasks = [asyncio.create_task(self._refresh(login), name="proxylogin-refresh") for login in due]
        for task in tasks:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        if tasks:
            await asyncio.wait(tasks)  # a cancellation of this leaves them be
        return len(tasks)

    async def tidy(self) -> None:
        """Seals anew what another key has sealed, and forgets what is long over."""
        others = await self._logins.sealed_by_others(self._keeping.keyring.current, RESEALED_AT_ONCE)
        lost = [sealed for sealed in others if not await self._reseal(sealed)]
        if lost:
            logger.error(
                "login.keys_missing", logins=len(lost), remedy="put the key back, or these users sign in again"
            )
        now_ms = self._now_ms()
        await self._logins.forget(now_ms - KEPT_AFTER_END_S * 1000, now_ms)

    async def ended(self, login: EndedLogin, ended_by: EndedBy) -> str | None:
        """Tells the caches, and the provider that the refresh token is not needed; gives the ID token of the sign-in.

        The end is committed already: nothing here may fail.
        """
        try:
            await self._cache.end([login.cookie_hash], ended_by)
        except StoreUnavailable as error:
            logger.warning("login.end_not_cached", login_id=login.login_id, reason=str(error))
        try:
            tokens = login.tokens and self._keeping.tokens(login.cookie_hash, login.tokens)
        except Unsealable:
            tokens = None
        if not tokens:
            return None
        if tokens.refresh_token is not None:
            await self._sign_ins.revoke(tokens.refresh_token)
        return tokens.id_token

    async def _refresh(self, due: DueLogin) -> None:
        log = logger.bind(login_id=due.login_id)
        try:
            tokens = self._keeping.tokens(due.cookie_hash, due.tokens)
            before = decode_claims(unseal_claims(self._keeping.keyring, due.cookie_hash, due.claims))
        except Unsealable:
            log.error("login.not_readable")
            await self._postpone(due)
            self._refreshed("failed")
            return
        if tokens.refresh_token is None:
            return
        try:
            outcome = await self._sign_ins.refresh(tokens.refresh_token, before)
        except Unavailable as error:
            log.warning("login.refresh_failed", reason=str(error.__cause__ or error), failures=due.refresh_failures + 1)
            self._refreshed("failed")
            await self._postpone(due)
        except KDCubeError as error:
            log.error("login.refresh_failed", reason=str(error))
            self._refreshed("failed")
            await self._postpone(due)
        else:
            match outcome:
                case Granted():
                    self._refreshed("granted")
                    await self._store(due, outcome, outcome.refresh_token or tokens.refresh_token, tokens.id_token)
                    log.info("login.refreshed")
                case Refused():
                    self._refreshed("refused")
                    log.info("login.refused", error=outcome.error)
                    await self._end(due)

    def _refreshed(self, outcome: str) -> None:
        self._instruments.counter("login_refreshes", outcome=outcome).add()

    async def _store(self, due: DueLogin, granted: Granted, refresh_token: str, id_token: str | None) -> None:
        sealed = self._keeping.sealed(due.cookie_hash, granted, refresh_token, id_token, self._now_ms())
        while True:  # until it is stored: the provider knows no other by now
            try:
                stored = await self._logins.store_refreshed(
                    due,
                    claims=sealed.claims,
                    tokens=sealed.tokens,
                    sealed_by=sealed.sealed_by,
                    confirmed_ms=sealed.confirmed_ms,
                    refresh_ms=sealed.refresh_ms,
                )
                break
            except StoreUnavailable as error:
                logger.warning("login.refresh_not_stored", login_id=due.login_id, reason=str(error))
                await asyncio.sleep(STORE_RETRY_S)
        if not stored:  # the user signed out meanwhile; or this very statement has worked before its answer was lost
            row = await self._still(due)
            if row is False:
                await self._sign_ins.revoke(refresh_token)

    async def _still(self, due: DueLogin) -> bool | None:
        """Whether the login has not ended; None when that cannot be told."""
        try:
            row = await self._logins.get(due.cookie_hash)
        except StoreUnavailable:
            return None
        return row is not None and row.ended_ms is None

    async def _end(self, due: DueLogin) -> None:
        try:
            ended = await self._logins.end_refused(due, self._now_ms(), self._actor)
        except StoreUnavailable as error:
            logger.warning("login.refusal_not_stored", login_id=due.login_id, reason=str(error))
            return
        if ended is not None:
            await self.ended(ended, "refused")

    async def _postpone(self, due: DueLogin) -> None:
        wait_s = min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(due.refresh_failures, 8))
        try:
            await self._logins.postpone_refresh(due, self._name, self._now_ms() + int(wait_s * 1000))
        except StoreUnavailable as error:
            logger.warning("login.refresh_not_postponed", login_id=due.login_id, reason=str(error))

    async def _reseal(self, sealed: Sealed) -> bool:
        keyring, cookie_hash = self._keeping.keyring, sealed.cookie_hash
        try:
            anew = Sealed(
                cookie_hash,
                sealed.generation,
                seal_claims(keyring, cookie_hash, unseal_claims(keyring, cookie_hash, sealed.claims)),
                sealed.tokens and self._keeping.reseal_tokens(cookie_hash, sealed.tokens),
            )
        except Unsealable:
            return False
        await self._logins.store_resealed(anew, keyring.current)
        return True

    async def _until_due(self) -> float:
        at_ms = await self._logins.next_due(self._now_ms())
        return LOOK_MAX_S if at_ms is None else min(LOOK_MAX_S, max(LOOK_MIN_S, at_ms / 1000 - self._clock()))

    async def _wait(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

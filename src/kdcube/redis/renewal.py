"""Heartbeat and lease renewal over a blocking connection of their own, for the thread that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from kdcube.redis.endpoint import parse_endpoint
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

log = structlog.get_logger()

_RENEW = Script("renew")
_BEAT = Script("beat")


@dataclass(frozen=True, slots=True)
class Renewed:
    """Turns whose claim is no longer the current one, and turns that are cancelled."""

    lost: frozenset[str]
    cancelled: frozenset[str]


class Renewal:
    """Not for the event loop: every call blocks, at most ``timeout_s``."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        *,
        worker_id: str,
        lease_s: float,
        heartbeat_ttl_s: float,
        epoch: Callable[[], int | None],
        describe: Callable[[], tuple[int, dict[str, Any]]],
        timeout_s: float = 2.0,
    ) -> None:
        """``describe`` gives the worker's slots and what it says of itself. Both run in the caller's thread."""
        endpoint = parse_endpoint(url)
        self._client = Redis(
            host=endpoint.host,
            port=endpoint.port,
            unix_socket_path=endpoint.path,
            ssl=endpoint.tls,
            ssl_ca_certs=endpoint.ca_file,
            username=None if endpoint.password is None else endpoint.username,
            password=endpoint.password,
            db=endpoint.db,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        self._keys = keys
        self._worker_id = worker_id
        self._lease_ms = int(lease_s * 1000)
        self._heartbeat_ttl_ms = int(heartbeat_ttl_s * 1000)
        self._epoch = epoch
        self._describe = describe

    def renew(self, claims: Mapping[str, str]) -> Renewed | None:
        """Beats, then renews ``claims`` (turn -> claim). None when Valkey is away or of another epoch."""
        keys = self._keys
        slots, info = self._describe()
        try:
            self._run(
                _BEAT,
                [keys.beats, keys.slots, keys.workers, keys.doorbell],
                [self._worker_id, slots, msgspec.json.encode(info), self._heartbeat_ttl_ms],
            )
            epoch = self._epoch()
            if epoch is None:
                return None
            if not claims:
                return Renewed(frozenset(), frozenset())
            pairs = [part for turn, claim in claims.items() for part in (turn, claim)]
            lost, cancelled = self._run(_RENEW, [keys.epoch, keys.turns, keys.leases], [epoch, self._lease_ms, *pairs])
        except RedisError as error:
            log.warning("leases were not renewed", error=str(error))
            return None
        return Renewed(frozenset(t.decode() for t in lost), frozenset(t.decode() for t in cancelled))

    def close(self) -> None:
        self._client.close()

    def _run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        try:
            return self._client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return self._client.eval(script.text, len(keys), *keys, *args)

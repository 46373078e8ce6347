"""Where requests come from, and how many anonymous sessions one address may open."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request

from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.buckets import take_token
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNKNOWN = ipaddress.IPv4Address(0)


class Addresses:
    """Tells the client's address. X-Forwarded-For counts only as far as trusted proxies have written it."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: Request) -> Address:
        address = _address(request.client.host) if request.client else _UNKNOWN
        if not self._trusted:
            return address
        hops = [hop for line in request.headers.getlist("x-forwarded-for") for hop in line.split(",")]
        while hops and any(address in network for network in self._trusted):
            address = _address(hops.pop().strip())
        return address


def _address(text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _UNKNOWN
    return getattr(address, "ipv4_mapped", None) or address


def network_of(address: Address) -> str:
    """What counts as one address: of IPv6 a /64, of which one user commands every address."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


@dataclass(frozen=True, slots=True)
class Allowance:
    """``burst`` at once, then ``per_s`` a second."""

    burst: float
    per_s: float


ELSEWHERE = Allowance(burst=60, per_s=0.5)
"""Many people may share one address, and one of them is still to run dry."""
LOOPBACK = Allowance(burst=10_000, per_s=1_000)
"""This machine: tests, development, and a proxy that is not among the trusted ones."""
MAX_ADDRESSES = 20_000


def allowance_of(address: Address, elsewhere: Allowance = ELSEWHERE, loopback: Allowance = LOOPBACK) -> Allowance:
    return loopback if address.is_loopback else elsewhere


class Buckets:
    """A token bucket per address, as ``network_of`` tells them apart, in the process's memory.

    Bounded: the addresses that have been quiet for longest are forgotten first.
    """

    def __init__(
        self,
        elsewhere: Allowance = ELSEWHERE,
        loopback: Allowance = LOOPBACK,
        *,
        max_addresses: int = MAX_ADDRESSES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._elsewhere = elsewhere
        self._loopback = loopback
        self._max_addresses = max_addresses
        self._monotonic = monotonic
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, elsewhere: Allowance) -> None:
        """From now on. Who has less left than that may use no more of it than has come back meanwhile."""
        self._elsewhere = elsewhere

    def take(self, address: Address) -> float:
        """0 when a token was there, else the seconds until there is one."""
        allowance = allowance_of(address, self._elsewhere, self._loopback)
        place = network_of(address)
        now = self._monotonic()
        level, since = self._levels.pop(place, (allowance.burst, now))
        level = min(allowance.burst, level + (now - since) * allowance.per_s)
        wait_s = 0.0 if level >= 1 else (1 - level) / allowance.per_s
        self._levels[place] = (level - 1 if level >= 1 else level, now)
        if len(self._levels) > self._max_addresses:
            self._levels.popitem(last=False)
        return wait_s


class Openings:
    """How many anonymous sessions an address may open at all ingress processes together."""

    def __init__(self, connection: Connection, keys: Keys, own: Buckets | None = None) -> None:
        self._connection = connection
        self._keys = keys
        self._own = own or Buckets()

    async def take(self, address: Address) -> float:
        """0 when one more may be opened, else the seconds until then. Without Valkey each process counts alone."""
        allowance = allowance_of(address)
        key = self._keys.sessions_opened(network_of(address))
        try:
            return await take_token(self._connection, key, burst=allowance.burst, per_s=allowance.per_s)
        except StoreUnavailable:
            return self._own.take(address)

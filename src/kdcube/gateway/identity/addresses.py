"""Where requests come from, and how many anonymous users one address may open."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request

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


class Buckets:
    """A token bucket per address (per /64 of IPv6, of which one user commands them all), in the process's memory.

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
        self._levels: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def take(self, address: Address) -> float:
        """0 when a token was there, else the seconds until there is one."""
        allowance = self._loopback if address.is_loopback else self._elsewhere
        place = int(address) >> 64 if address.version == 6 else int(address)
        now = self._monotonic()
        level, since = self._levels.pop(place, (allowance.burst, now))
        level = min(allowance.burst, level + (now - since) * allowance.per_s)
        wait_s = 0.0 if level >= 1 else (1 - level) / allowance.per_s
        self._levels[place] = (level - 1 if level >= 1 else level, now)
        if len(self._levels) > self._max_addresses:
            self._levels.popitem(last=False)
        return wait_s

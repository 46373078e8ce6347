"""Where requests come from, and how many sessions an address may open."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from starlette.requests import Request

from kdcube.gateway.identity.addresses import Addresses, Allowance, Buckets


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(peer: str, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return Request({"type": "http", "client": (peer, 1), "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("9.9.9.9", ["1.1.1.1"], "9.9.9.9"),  # anybody can write the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),  # what the client wrote stands first
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["nonsense"], "0.0.0.0"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: list[str], address: str) -> None:
    addresses = Addresses([ip_network("10.0.0.0/8")])
    assert addresses.of(request(peer, *forwarded)) == ip_address(address)
    assert Addresses().of(request("10.0.0.1", *forwarded)) == ip_address("10.0.0.1")


def test_a_bucket_runs_dry_and_fills_again() -> None:
    time = Time()
    buckets = Buckets(Allowance(burst=2, per_s=0.5), monotonic=time)
    address = ip_address("1.1.1.1")
    assert [buckets.take(address) for _ in range(3)] == [0, 0, 2]
    assert buckets.take(ip_address("1.1.1.2")) == 0
    time.now = 1
    assert buckets.take(address) == 1
    time.now = 2
    assert buckets.take(address) == 0
    time.now = 1000
    assert [buckets.take(address) for _ in range(3)] == [0, 0, 2]


def test_addresses_of_one_ipv6_network_are_one_user() -> None:
    buckets = Buckets(Allowance(burst=1, per_s=1), monotonic=Time())
    assert buckets.take(ip_address("2001:db8::1")) == 0
    assert buckets.take(ip_address("2001:db8::2")) > 0
    assert buckets.take(ip_address("2001:db8:0:1::1")) == 0


def test_this_machine_has_more_and_memory_is_bounded() -> None:
    buckets = Buckets(Allowance(burst=1, per_s=1), Allowance(burst=3, per_s=1), max_addresses=2, monotonic=Time())
    assert [buckets.take(ip_address("127.0.0.1")) for _ in range(4)] == [0, 0, 0, 1]
    assert buckets.take(ip_address("1.1.1.1")) == 0
    assert buckets.take(ip_address("1.1.1.2")) == 0  # the quietest, 127.0.0.1, is forgotten
    assert buckets.take(ip_address("127.0.0.1")) == 0

"""Ports are free, and none that the kernel may give to a client."""

from __future__ import annotations

import socket
from pathlib import Path

from kdcube.local.ports import free_port, is_free


def test_a_port_in_use_is_not_free():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    assert is_free(port)


def test_a_port_on_all_interfaces_is_not_free():
    port = free_port()
    with socket.create_server(("0.0.0.0", port)):
        assert not is_free(port)


def test_free_ports_are_below_those_of_clients():
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 < free_port(1, 91) < first_of_clients - 91

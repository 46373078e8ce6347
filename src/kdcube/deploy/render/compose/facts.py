"""What compose must know beside the descriptor, and the names that follow from both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from kdcube.deploy.descriptor.model import Descriptor

_NETWORKS = IPv4Network("10.213.0.0/16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeFacts:
    """Of the machine and the release."""

    folder: Path
    """Where kdcube.yaml is, absolute: its relative paths begin there."""
    release: str
    """The version whose images are meant where none is given."""
    docker_group: int | None = None
    """Who may use the socket of Docker; only for ``execution: docker``."""
    subnet: IPv4Network | None = None
    """Of the network between the proxy and the services, a /24; None: one that follows from tenant and project."""

    def path(self, name: str) -> str:
        """A folder or file of the descriptor."""
        return str(self.folder / name)


def project_name(descriptor: Descriptor) -> str:
    """As compose calls the deployment: of its own for each tenant and project."""
    plain = f"kdcube-{descriptor.tenant}-{descriptor.project}"
    name = re.sub(r"[^a-z0-9_-]", "-", plain.lower())
    clear = name == plain and "-" not in descriptor.tenant + descriptor.project
    return name if clear else f"{name}-{_digest(descriptor)[:6]}"


def subnet_of(descriptor: Descriptor, facts: ComposeFacts) -> IPv4Network:
    """Of the network ``front``."""
    if facts.subnet is not None:
        return facts.subnet
    return list(_NETWORKS.subnets(new_prefix=24))[int(_digest(descriptor)[:2], 16)]


def proxy_address(descriptor: Descriptor, facts: ComposeFacts) -> IPv4Address:
    """Of web-proxy in ``front``: the only one whose word of a client's address the services take."""
    return subnet_of(descriptor, facts)[2]


def _digest(descriptor: Descriptor) -> str:
    return sha256(f"{descriptor.tenant}\n{descriptor.project}".encode()).hexdigest()

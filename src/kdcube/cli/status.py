"""``kdcube status``."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kdcube.cli.settings import local_settings
from kdcube.local.home import Home
from kdcube.local.status import Status, read_status


def status(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show what runs, and whether it is ready.

    Parameters
    ----------
    json
        Print it as JSON.
    """
    found = asyncio.run(read_status(Home(local_settings().home)))
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    elif found.url is None:
        print(f"nothing runs in {found.home}")
    else:
        _show(found)


def _show(found: Status) -> None:
    services = Table("service", "instance", "process", "address", "ready", "version", box=None, pad_edge=False)
    for service in found.services:
        ready = "yes" if service.ready else "no" if service.live else "does not answer"
        services.add_row(service.name, service.instance, str(service.pid), service.url, ready, service.version or "")
    bundles = Table("bundle", "version", "processes", box=None, pad_edge=False)
    for bundle in found.bundles:
        name = f"{bundle.id} (default)" if bundle.default else bundle.id
        bundles.add_row(name, bundle.version or "", ", ".join(map(str, bundle.host_pids)))
    console = Console(soft_wrap=True)
    console.print(f"{found.url}\n{found.home}\n", highlight=False)
    console.print(services)
    if found.bundles:
        console.print()
        console.print(bundles)

"""``kdcube status``."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter

from kdcube.cli.output import table
from kdcube.cli.settings import local_settings
from kdcube.local.home import Home
from kdcube.local.status import BundleStatus, ServiceStatus, Status, read_status


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
    print(f"{found.url}\n{found.home}\n", flush=True)
    table(("service", "instance", "process", "address", "ready", "version"), map(_service_row, found.services))
    if found.bundles:
        print(flush=True)
        table(("bundle", "version", "processes"), map(_bundle_row, found.bundles))


def _service_row(service: ServiceStatus) -> tuple[str, ...]:
    ready = "yes" if service.ready else "no" if service.live else "does not answer"
    return (service.name, service.instance, str(service.pid), service.url, ready, service.version or "")


def _bundle_row(bundle: BundleStatus) -> tuple[str, ...]:
    name = f"{bundle.id} (default)" if bundle.default else bundle.id
    return (name, bundle.version or "", ", ".join(map(str, bundle.host_pids)))

"""``kdcube logs``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kdcube.cli.settings import local_settings
from kdcube.local.home import Home
from kdcube.local.logs import followed_lines, logs_of, stored_lines
from kdcube.protocol.errors import InvalidInput


def logs(
    service: str | None = None, /, *, follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False
) -> None:
    """Show the services' logs.

    Parameters
    ----------
    service
        A service (ingress) or one instance of it (ingress-0); all of them by default.
    follow
        Go on with what is written from now on, until Ctrl-C.
    """
    folder = Home(local_settings().home).logs
    found = logs_of(folder, service)
    if service is not None and not found:
        known = ", ".join(log.stem for log in logs_of(folder, None)) or "none"
        raise InvalidInput("service", f"there is no log of {service!r} in {folder}; there are: {known}")
    lines = followed_lines(folder, service) if follow else stored_lines(found)
    alone = len(found) == 1
    for instance, line in lines:
        print(line if alone else f"{instance:<12} {line}", flush=follow)

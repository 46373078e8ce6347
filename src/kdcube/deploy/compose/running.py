"""Up and down: compose does it, in the order that was rendered; here it is told how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from kdcube.deploy.compose.containers import Container, containers_of, troubles
from kdcube.deploy.compose.program import Compose, Docker, DockerFailed
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.render.compose.rendering import ONCE, STOPPING
from kdcube.deploy.render.compose.secret_files import secret_names
from kdcube.protocol.errors import KDCubeError

_INTERVAL_S = 1.0
_LOG_LINES = 8


class NotReady(KDCubeError):
    """Something of the deployment is not ready. The message says what, and why where that is known."""


def start(
    docker: Docker,
    compose: Compose,
    descriptor: Descriptor,
    changed: Collection[str],
    *,
    limit_s: float,
    report: Callable[[str], None],
) -> list[Container]:
    """Starts what is not there, replaces what has changed, and waits until all is ready: its containers.

    ``changed``: names of secrets that have; whoever reads one is made anew. Raises NotReady, DockerFailed.
    """
    running = {each.service for each in containers_of(docker, compose.project) if each.state == "running"}
    failed = None
    try:
        compose.run("up", "--detach", "--remove-orphans")
        told_otherwise = sorted(running & readers_of(descriptor, changed))
        if told_otherwise:
            report(f"secrets have changed: {', '.join(told_otherwise)} start again")
            compose.run("up", "--detach", "--no-deps", "--force-recreate", *told_otherwise)
    except DockerFailed as error:
        failed = error
    return wait_until_ready(docker, compose, limit_s=0 if failed else limit_s, failed=failed)


def wait_until_ready(
    docker: Docker, compose: Compose, *, limit_s: float, failed: DockerFailed | None = None
) -> list[Container]:
    """All containers, once each is ready. ``failed``: what compose said already. Raises NotReady, DockerFailed."""
    deadline = time.monotonic() + limit_s
    wanted = set(compose.output("config", "--services").split())
    while True:
        containers = containers_of(docker, compose.project)
        missing = wanted - {each.service for each in containers}
        if failed is None and not missing and all(each.ready for each in containers):
            return containers
        if failed is not None or any(each.is_hopeless for each in containers) or time.monotonic() > deadline:
            raise NotReady("; ".join(_reasons(docker, containers, missing, failed)))
        time.sleep(_INTERVAL_S)


def stop(docker: Docker, compose: Compose, *, volumes: bool) -> bool:
    """Drains and stops everything, and removes its containers and networks; with ``volumes`` also all data. Whether
    anything was there. Raises DockerFailed.

    Who takes work stops first, then the proxy, through which streams end: compose itself would go the other way round.
    """
    there = {each.service for each in containers_of(docker, compose.project) if each.state == "running"}
    for group in STOPPING:
        if stopping := [name for name in group if name in there]:
            compose.run("stop", *stopping)
    found = bool(containers_of(docker, compose.project))
    compose.run("down", "--remove-orphans", *(("--volumes",) if volumes else ()))
    return found


def readers_of(descriptor: Descriptor, changed: Collection[str]) -> set[str]:
    """The services that read one of these secrets. A bundle's is read again by itself, and the password of a database
    that is there is not changed by its file.
    """
    names = (*descriptor.running, "valkey")
    return {name for name in names if name not in ONCE and set(secret_names(descriptor, name)) & set(changed)}


def _reasons(docker: Docker, containers: list[Container], missing: set[str], failed: DockerFailed | None) -> list[str]:
    found = [f"{each.name}: {each.trouble}{_said(docker, each)}" for each in troubles(containers)]
    slow = [each for each in containers if not each.ready and each.trouble is None and each.state != "created"]
    if not found:
        found = [f"{each.name} is still {each.told}{f': {each.detail}' if each.detail else ''}" for each in slow]
    if failed is not None and not found:
        found.append(str(failed))
    if waiting := sorted({*missing, *(each.service for each in containers if each.state == "created")}):
        found.append(f"not started: {', '.join(waiting)}")
    return found


def _said(docker: Docker, container: Container) -> str:
    """Its last lines, on one."""
    try:
        text = docker.logs(container.name, _LOG_LINES)
    except DockerFailed:
        return ""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return f", its log ends with: {' | '.join(lines[-_LOG_LINES:])}" if lines else ""

"""``kdcube compose``: a deployment on one machine, from kdcube.yaml."""

from __future__ import annotations

import sys
from ipaddress import IPv4Network
from json import dumps
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from kdcube import __version__
from kdcube.cli.output import table
from kdcube.config.load import load
from kdcube.config.secrets import SecretSettings
from kdcube.deploy.compose.containers import Container, containers_of
from kdcube.deploy.compose.program import Compose, Docker
from kdcube.deploy.compose.running import start, stop
from kdcube.deploy.compose.writing import check_mounts, write_rendered, write_secrets
from kdcube.deploy.descriptor.checks.rule import Target
from kdcube.deploy.descriptor.checks.verdict import judged
from kdcube.deploy.descriptor.edge import NoTls
from kdcube.deploy.descriptor.file import read_file
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.reading import FILE, Invalid
from kdcube.deploy.descriptor.services import Execution
from kdcube.deploy.render.compose.facts import ComposeFacts
from kdcube.deploy.render.compose.rendering import render as rendered
from kdcube.deploy.render.compose.services import SOCKET
from kdcube.protocol.errors import InvalidInput

Json = Annotated[bool, Parameter(negative="")]
Switch = Annotated[bool, Parameter(negative="")]


def render(
    file: Path = Path(FILE), /, *, out: Path | None = None, environment: str | None = None, subnet: str | None = None
) -> None:
    """Write the files of a deployment: compose.yaml, environment files, the proxy's configuration. No secret.

    Parameters
    ----------
    file
        The descriptor.
    out
        The folder; by default `compose` beside the descriptor, `compose-NAME` with an environment.
    environment
        With this environment merged in.
    subnet
        The network between the proxy and the services, such as 10.9.0.0/24; by default one of 10.213.0.0/16.
    """
    descriptor = _fit(file, environment)
    folder = _folder(file, out, environment)
    files = rendered(descriptor, _facts(file, descriptor, subnet))
    write_rendered(files, folder)
    print(f"wrote {', '.join(sorted(files))} into {folder}")


def up(
    file: Path = Path(FILE),
    /,
    *,
    out: Path | None = None,
    environment: str | None = None,
    subnet: str | None = None,
    timeout_s: Annotated[float, Parameter(name="--timeout")] = 300,
) -> None:
    """Render, write the secrets, start or bring up to date, and wait until all is ready.

    Parameters
    ----------
    file
        The descriptor.
    out
        The folder; by default `compose` beside the descriptor, `compose-NAME` with an environment.
    environment
        With this environment merged in.
    subnet
        The network between the proxy and the services, such as 10.9.0.0/24; by default one of 10.213.0.0/16.
    timeout_s
        Seconds that it may take to get ready.
    """
    descriptor = _fit(file, environment)
    folder = _folder(file, out, environment)
    docker, facts = Docker.find(), _facts(file, descriptor, subnet)
    check_mounts(descriptor, facts)
    write_rendered(rendered(descriptor, facts), folder)
    changed = write_secrets(descriptor, _absolute(file).parent, load(SecretSettings), folder)
    compose = Compose.find(docker, folder)
    containers = start(docker, compose, descriptor, changed, limit_s=timeout_s, report=_tell)
    print(f"{_url(descriptor)} is ready: {len(containers)} containers of {compose.project}")


def down(
    file: Path = Path(FILE),
    /,
    *,
    out: Path | None = None,
    environment: str | None = None,
    volumes: Switch = False,
) -> None:
    """Drain and stop everything. Data stays in its volumes.

    Parameters
    ----------
    file
        The descriptor.
    out
        The folder that was rendered into.
    environment
        That was rendered.
    volumes
        Delete the volumes too, with all data.
    """
    docker = Docker.find()
    compose = Compose.find(docker, _folder(file, out, environment))
    found = stop(docker, compose, volumes=volumes)
    print(f"stopped {compose.project}" if found else f"nothing runs of {compose.project}")


def status(
    file: Path = Path(FILE), /, *, out: Path | None = None, environment: str | None = None, json: Json = False
) -> None:
    """Show what runs, whether it is ready, and why not. The exit code is 1 when something is not.

    Parameters
    ----------
    file
        The descriptor.
    out
        The folder that was rendered into.
    environment
        That was rendered.
    json
        Print it as JSON.
    """
    docker = Docker.find()
    folder = _folder(file, out, environment)
    compose = Compose.find(docker, folder)
    containers = containers_of(docker, compose.project)
    is_ready = bool(containers) and all(each.ready for each in containers)
    if json:
        told = {"project": compose.project, "folder": str(folder), "ready": is_ready}
        print(dumps({**told, "containers": [_shown(each) for each in containers]}, indent=2), flush=True)
    elif not containers:
        print(f"nothing runs of {compose.project}")
    else:
        rows = [(each.service, each.name, each.image, each.told, each.trouble or "") for each in containers]
        table(("service", "container", "image", "state", "why"), rows)
    if not is_ready:
        sys.exit(1)


def logs(
    service: str | None = None,
    /,
    *,
    file: Path = Path(FILE),
    out: Path | None = None,
    environment: str | None = None,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False,
) -> None:
    """Show the containers' logs.

    Parameters
    ----------
    service
        A service, such as proc; all of them by default.
    file
        The descriptor.
    out
        The folder that was rendered into.
    environment
        That was rendered.
    follow
        Go on with what is written from now on, until Ctrl-C.
    """
    compose = Compose.find(Docker.find(), _folder(file, out, environment))
    known = compose.output("config", "--services").split()
    if service is not None and service not in known:
        raise InvalidInput("service", f"there is no service {service!r}; there are: {', '.join(sorted(known))}")
    chosen = () if service is None else (service,)
    sys.exit(compose.pass_on("logs", *(("--follow",) if follow else ()), *chosen))


def _fit(file: Path, environment: str | None) -> Descriptor:
    """The descriptor. Raises InvalidInput with all that keeps it from compose."""
    read = read_file(file, environment)
    if isinstance(read, Invalid):
        _refuse(file, [str(finding) for finding in read.errors])
    verdict = judged(read.descriptor, [Target.COMPOSE])
    if found := verdict.errors(Target.COMPOSE):
        _refuse(file, [str(finding) for finding in found])
    return read.descriptor


def _refuse(file: Path, errors: list[str]) -> NoReturn:
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    raise InvalidInput("file", f"{file} is not fit for compose: `kdcube descriptor check {file} --for compose`")


def _facts(file: Path, descriptor: Descriptor, subnet: str | None) -> ComposeFacts:
    return ComposeFacts(
        folder=_absolute(file).parent,
        release=__version__,
        docker_group=_docker_group() if descriptor.services.proc.execution is Execution.DOCKER else None,
        subnet=None if subnet is None else _network(subnet),
    )


def _network(subnet: str) -> IPv4Network:
    try:
        network = IPv4Network(subnet)
    except ValueError:
        network = None
    if network is None or network.prefixlen > 28:
        raise InvalidInput("subnet", f"{subnet!r} is no network of 16 addresses at least; give one such as 10.9.0.0/24")
    return network


def _docker_group() -> int | None:
    try:
        return Path(SOCKET).stat().st_gid
    except OSError:
        return None


def _folder(file: Path, out: Path | None, environment: str | None) -> Path:
    if out is not None:
        return out.expanduser().absolute()
    return _absolute(file).parent / ("compose" if environment is None else f"compose-{environment}")


def _absolute(file: Path) -> Path:
    return file.expanduser().absolute()


def _url(descriptor: Descriptor) -> str:
    edge, plain = descriptor.edge, isinstance(descriptor.tls, NoTls)
    host = edge.hosts[0] if edge.hosts else "localhost"
    port, usual = (edge.http_port, 80) if plain else (edge.https_port, 443)
    return f"{'http' if plain else 'https'}://{host}" + ("" if port == usual else f":{port}")


def _shown(container: Container) -> dict[str, Any]:
    return {
        "service": container.service,
        "container": container.name,
        "image": container.image,
        "state": container.state,
        "health": container.health,
        "ready": container.ready,
        "restarts": container.restarts,
        "exit_code": container.exit_code,
        "why": container.trouble,
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

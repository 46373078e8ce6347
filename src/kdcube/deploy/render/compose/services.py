"""The services of ours in compose.yaml, as plain data."""

from __future__ import annotations

from typing import Any

from kdcube.deploy.descriptor.bundles import ROOT, Mounted
from kdcube.deploy.descriptor.data import PostgresContainer, PostgresGiven, ValkeyContainer, ValkeyGiven
from kdcube.deploy.descriptor.edge import NoTls
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.services import Execution, Ingress, Proc, Service
from kdcube.deploy.render.compose.facts import ComposeFacts, proxy_address
from kdcube.deploy.render.compose.secret_files import (
    AUTHORITIES,
    GRANTED,
    granted_files,
    secret_files,
    secret_names,
)
from kdcube.deploy.render.variables import CONFIGURED, HOME

USER = "10001:10001"
"""Whom all containers of ours run as."""
SOCKET = "/var/run/docker.sock"
LOGGING = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}

_PROCESSES_MAX = 512
_PROC_PROCESSES_MAX = 8_192
"""Bundles have limits of their own, below it."""
_TMP_MB = 256
_TMP = "/tmp"  # noqa: S108 - of a container, which has it for itself
_WITH_STORES = ("ingress", "proc", "proxylogin")


def confined(*, user: str | None = USER, capabilities: tuple[str, ...] = ()) -> dict[str, Any]:
    """What holds for every container: nothing of it can be written, and nothing gained."""
    return {
        **({} if user is None else {"user": user}),
        "read_only": True,
        "cap_drop": ["ALL"],
        **({"cap_add": list(capabilities)} if capabilities else {}),
        "security_opt": ["no-new-privileges:true"],
        "logging": LOGGING,
    }


def temporary() -> str:
    """Where anything may be written, in memory."""
    return f"{_TMP}:mode=1777,size={_TMP_MB}m"


def limited(service: Service, processes: int = 1) -> dict[str, Any]:
    """One container stands for one process: it has its share of what the instance has."""
    return {
        "cpus": round(service.cpu / processes, 3),
        "mem_limit": f"{max(64, service.memory_mb // processes)}m",
    }


def replicas(service: Service) -> int:
    """How many containers: instances by processes."""
    match service:
        case Ingress() | Proc():
            return service.count * service.processes
        case _:
            return getattr(service, "count", 1)


def render_service(descriptor: Descriptor, facts: ComposeFacts, name: str) -> dict[str, Any]:
    """One of ``CONFIGURED``, or web-ui."""
    service = descriptor.running[name]
    processes = service.processes if isinstance(service, Ingress | Proc) else 1
    is_proc = isinstance(service, Proc)
    return {
        "image": descriptor.image_of(name, facts.release),
        **({"env_file": [f".env.{name}"]} if name in CONFIGURED else {}),
        **confined(),
        "tmpfs": [temporary() + (",exec" if is_proc else "")],
        **limited(service, processes),
        "pids_limit": _PROC_PROCESSES_MAX if is_proc else _PROCESSES_MAX,
        **({"scale": replicas(service)} if replicas(service) > 1 else {}),
        "stop_grace_period": f"{service.stop_grace_s}s",
        "restart": "unless-stopped",
        "networks": _networks(descriptor, name),
        **({"volumes": volumes} if (volumes := _volumes(descriptor, facts, name)) else {}),
        **({"secrets": secrets} if (secrets := list(secret_names(descriptor, name))) else {}),
        **({"depends_on": after} if (after := _after(descriptor, name)) else {}),
        **(_docker_group(descriptor, facts) if is_proc else {}),
    }


def render_db_upgrade(descriptor: Descriptor, facts: ComposeFacts) -> dict[str, Any]:
    """Once at each start, before any service: the schema."""
    told = [f for f in secret_files(descriptor) if "db-upgrade" in f.readers]
    return {
        "image": descriptor.image_of("ingress", facts.release),
        "entrypoint": ["kdcube", "db", "upgrade"],
        "command": [],
        "environment": {variable: f.mounted for f in told if (variable := f.readers["db-upgrade"])},
        **confined(),
        "tmpfs": [temporary()],
        "healthcheck": {"disable": True},
        "restart": "no",
        "networks": _store_networks(descriptor.data.postgres),
        **({"volumes": found} if (found := _authorities(descriptor, facts)) else {}),
        "secrets": [f.name for f in told],
        **({"depends_on": _healthy("postgres")} if isinstance(descriptor.data.postgres, PostgresContainer) else {}),
    }


def render_owner(descriptor: Descriptor, facts: ComposeFacts) -> dict[str, Any]:
    """Once at each start: volumes are made by Docker as root's, and given to whom the services run as."""
    mounts = {volume.split(":")[1]: volume for volume in _storage(descriptor, facts) + _home("proc")}
    return {
        "image": descriptor.image_of("ingress", facts.release),
        "entrypoint": ["chown", USER, *mounts],
        "command": [],
        **confined(user="0:0", capabilities=("CHOWN",)),
        "healthcheck": {"disable": True},
        "restart": "no",
        "network_mode": "none",
        "volumes": list(mounts.values()),
    }


def render_web_proxy(descriptor: Descriptor, facts: ComposeFacts, configuration: str) -> dict[str, Any]:
    """``configuration``: the digest of nginx.conf, so that a changed one makes a new container."""
    service, edge = descriptor.running["web-proxy"], descriptor.edge
    ports = [edge.http_port] + ([] if isinstance(descriptor.tls, NoTls) else [edge.https_port])
    behind = [name for name in ("ingress", "proc", "proxylogin", "web-ui") if name in descriptor.running]
    return {
        "image": descriptor.image_of("web-proxy", facts.release),
        "environment": {"KDCUBE_PROXY_PORT": str(edge.http_port)},
        "labels": {"kdcube.configuration": configuration},
        **confined(),
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "tmpfs": [temporary()],
        **limited(service),
        "pids_limit": _PROCESSES_MAX,
        "stop_signal": "SIGQUIT",
        "stop_grace_period": f"{service.stop_grace_s}s",
        "restart": "unless-stopped",
        "networks": {"front": {"ipv4_address": str(proxy_address(descriptor, facts))}},
        "ports": [f"{port}:{port}" for port in ports],
        "volumes": ["./nginx/nginx.conf:/etc/kdcube/nginx.conf:ro"],
        **({"secrets": secrets} if (secrets := list(secret_names(descriptor, "web-proxy"))) else {}),
        "depends_on": _healthy(*behind),
    }


def _networks(descriptor: Descriptor, name: str) -> list[str]:
    """``front`` is where the proxy is, and the way out; ``back`` is where the stores are, and leads nowhere."""
    if name != "metrics":
        return ["front", "back"] if name in _WITH_STORES else ["front"]
    metrics = descriptor.services.metrics
    goes_out = metrics.cloudwatch is not None or metrics.push_gateway is not None
    return ["back", "front"] if goes_out or not isinstance(descriptor.data.valkey, ValkeyContainer) else ["back"]


def _store_networks(store: object) -> list[str]:
    return ["back"] if isinstance(store, PostgresContainer) else ["front"]


def _healthy(*names: str) -> dict[str, Any]:
    return {name: {"condition": "service_healthy"} for name in names}


def _after(descriptor: Descriptor, name: str) -> dict[str, Any]:
    data, after = descriptor.data, dict[str, Any]()
    if name in _WITH_STORES:
        once = ("db-upgrade", "volumes") if name != "proxylogin" else ("db-upgrade",)
        after |= {each: {"condition": "service_completed_successfully"} for each in once}
    if name in CONFIGURED and isinstance(data.valkey, ValkeyContainer):
        after |= _healthy("valkey")
    if name in _WITH_STORES and isinstance(data.postgres, PostgresContainer):
        after |= _healthy("postgres")
    return after


def _home(name: str) -> list[str]:
    """Of proc, what was fetched and installed for bundles; of others, what goes with the container."""
    return [f"{name}-home:{HOME}"]


def _storage(descriptor: Descriptor, facts: ComposeFacts) -> list[str]:
    storage = descriptor.storage
    if not storage.path.startswith("file://"):
        return []
    source = "storage" if storage.volume is None else facts.path(storage.volume)
    return [f"{source}:{storage.path.removeprefix('file://')}"]


def _authorities(descriptor: Descriptor, facts: ComposeFacts) -> list[str]:
    given = {"valkey": descriptor.data.valkey, "postgres": descriptor.data.postgres}
    return [
        f"{facts.path(store.authorities)}:{AUTHORITIES}/{name}.pem:ro"
        for name, store in given.items()
        if isinstance(store, ValkeyGiven | PostgresGiven) and store.authorities is not None
    ]


def _volumes(descriptor: Descriptor, facts: ComposeFacts, name: str) -> list[str]:
    if name not in CONFIGURED:
        return []
    volumes = _authorities(descriptor, facts)
    if name == "metrics":
        return [volume for volume in volumes if volume.endswith("/valkey.pem:ro")]
    if name == "proxylogin":
        return volumes
    volumes += _storage(descriptor, facts)
    if any(path.startswith(f"{name}/") for path in granted_files(descriptor)):
        volumes.append(f"./secrets/granted/{name}:{GRANTED}:ro")
    if name == "proc":
        source = descriptor.bundles.source
        volumes += _home("proc")
        if isinstance(source, Mounted):
            volumes.append(f"{facts.path(source.folder)}:{ROOT}:ro")
        volumes += _docker(descriptor)
    return volumes


def _docker(descriptor: Descriptor) -> list[str]:
    """Where code of turns is executed in containers, and nowhere else: who has the socket has the machine."""
    workspace = descriptor.storage.workspace
    if descriptor.services.proc.execution is not Execution.DOCKER or workspace.host_path is None:
        return []
    return [f"{SOCKET}:{SOCKET}", f"{workspace.host_path}:{workspace.path}"]


def _docker_group(descriptor: Descriptor, facts: ComposeFacts) -> dict[str, Any]:
    used = descriptor.services.proc.execution is Execution.DOCKER and facts.docker_group is not None
    return {"group_add": [str(facts.docker_group)]} if used else {}

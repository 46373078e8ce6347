"""What a deployment will be, in words: nothing of it is a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kdcube.config.documents import dotted
from kdcube.deploy.descriptor.auth import Cognito, NoProvider, Oidc, Tokens
from kdcube.deploy.descriptor.bundles import ROOT, Baked, FromGit, Mounted
from kdcube.deploy.descriptor.checks.keeping import references
from kdcube.deploy.descriptor.checks.running import accepted_connections, connections
from kdcube.deploy.descriptor.data import (
    PostgresContainer,
    PostgresGiven,
    PostgresManaged,
    ValkeyContainer,
    ValkeyGiven,
    ValkeyManaged,
)
from kdcube.deploy.descriptor.edge import EdgeKind, GivenTls, NoTls, SelfSigned
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.services import Execution, Replicated


@dataclass(frozen=True, slots=True)
class Chapter:
    """Some sentences under a heading, one a line."""

    heading: str
    lines: tuple[str, ...]


def explained(descriptor: Descriptor, given: Mapping[str, Any], release: str) -> Sequence[Chapter]:
    """``given``: the document that was read, by which defaults are told; ``release``: whose images are the default."""
    return tuple(
        Chapter(heading, tuple(lines))
        for heading, lines in (
            ("Where people come in", _entering(descriptor)),
            ("What runs", _running(descriptor, release)),
            ("Who talks to whom", _talking(descriptor)),
            ("Where data is", _keeping(descriptor)),
            ("What is served", _serving(descriptor)),
            ("Who is known", _knowing(descriptor)),
            ("Secrets", _secrets(descriptor)),
            ("Defaults, which nobody changed", defaults(descriptor, given)),
        )
    )


def _entering(descriptor: Descriptor) -> Iterator[str]:
    edge, proxy = descriptor.edge, descriptor.edge.kind is EdgeKind.PROXY
    who = "nginx of ours (web-proxy)" if proxy else "a load balancer of AWS, which routes by paths"
    yield f"{who}, under {', '.join(edge.hosts) if edge.hosts else 'any name'}"
    match descriptor.tls:
        case NoTls():
            yield f"plain HTTP on port {edge.http_port}: for trials, or behind something that ends TLS"
        case SelfSigned():
            yield f"TLS on port {edge.https_port} with a certificate that nobody vouches for"
        case GivenTls() as tls:
            source = tls.acm or str(tls.certificate)
            yield f"TLS on port {edge.https_port} with the certificate {source}; port {edge.http_port} leads there"
    yield f"a stream says something every {edge.keepalive_s} s; the edge waits {edge.idle_s} s for anything"
    if edge.aws is not None:
        network, balancer = edge.aws.network, edge.aws.balancer
        where = f"in {network.vpc}" if network.vpc else f"in a new network {network.cidr} of {network.zones} zones"
        account = f", account {edge.aws.account}" if edge.aws.account else ""
        yield f"on AWS in {edge.aws.region}{account}, {where}; the load balancer is {balancer.arn or 'a new one'}"


def _running(descriptor: Descriptor, release: str) -> Iterator[str]:
    for name, service in descriptor.running.items():
        count = service.count if isinstance(service, Replicated) else 1
        scaled = ""
        if isinstance(service, Replicated) and service.scaling is not None:
            scaled = f" (ECS: {service.scaling.min} to {service.scaling.max})"
        yield (
            f"{name}: {count} x {descriptor.image_of(name, release)}{scaled}, {service.cpu:g} cores, "
            f"{service.memory_mb} MiB, {service.launch} on ECS, {service.stop_grace_s} s to stop"
        )
    proc, ingress = descriptor.services.proc, descriptor.services.ingress
    turns = proc.count * proc.processes * descriptor.slots
    yield f"turns at once: {proc.count} x {proc.processes} processes x {descriptor.slots} slots = {turns}"
    if ingress.processes > 1:
        yield f"ingress has {ingress.processes} processes in each instance"
    match proc.execution:
        case Execution.NONE:
            yield "code of turns is not executed"
        case Execution.SUBPROCESS:
            yield "code of turns is executed beside proc, in a sandbox"
        case Execution.DOCKER:
            yield "code of turns is executed in containers: proc gets the socket of Docker"
        case Execution.EXECUTOR:
            yield "code of turns is executed in tasks of executor"


def _talking(descriptor: Descriptor) -> Iterator[str]:
    running = descriptor.running
    front = "web-proxy" if "web-proxy" in running else "the load balancer"
    behind = [name for name in ("ingress", "proc", "proxylogin", "web-ui") if name in running]
    yield f"people -> {front} -> {', '.join(behind)}"
    stores = [name for name in ("ingress", "proc", "proxylogin") if name in running]
    yield f"{', '.join(stores)} -> Valkey, PostgreSQL; metrics -> Valkey, where it only reads"
    opened, accepted = connections(descriptor), accepted_connections(descriptor)
    told = ", ".join(f"{count} of {name}" for name, count in opened.items())
    of = f" of {accepted[1]} that it accepts" if accepted else ""
    yield f"connections to PostgreSQL at most: {sum(opened.values())}{of} ({told})"
    metrics = descriptor.services.metrics
    if metrics.cloudwatch is not None:
        yield f"metrics -> CloudWatch, namespace {metrics.cloudwatch.namespace}, every {metrics.interval_s} s"
    if metrics.push_gateway is not None:
        yield f"metrics -> {metrics.push_gateway}, every {metrics.interval_s} s"
    yield "nobody else is published: /metrics of all services is for inside alone"


def _keeping(descriptor: Descriptor) -> Iterator[str]:
    match descriptor.data.postgres:
        case PostgresContainer() as store:
            yield f"PostgreSQL: a container of {store.image}, {store.memory_mb} MiB, its data in a volume"
        case PostgresGiven() as store:
            yield f"PostgreSQL: {store.host}:{store.port}/{store.database} as {store.user}, TLS {store.tls}"
        case PostgresManaged() as store:
            zones = "two zones" if store.multi_az else "one zone"
            yield (
                f"PostgreSQL: made on RDS, {store.instance_class}, {store.storage_gb} GiB, {zones}, "
                f"backups for {store.backup_retention_days} days"
            )
    match descriptor.data.valkey:
        case ValkeyContainer() as store:
            yield f"Valkey: a container of {store.image}, {store.memory_mb} MiB"
        case ValkeyGiven() as store:
            tls = "with TLS" if store.tls else "without TLS"
            yield f"Valkey: {store.host}:{store.port}/{store.database} {tls}"
        case ValkeyManaged() as store:
            yield f"Valkey: made on ElastiCache, {store.node_type}, {store.replicas} replicas"
    storage = descriptor.storage
    if storage.path.startswith("s3:"):
        yield f"files: {storage.path}"
    else:
        volume = storage.volume or "a volume"
        efs = storage.efs and (storage.efs.file_system or "a new file system")
        yield f"files: {storage.path} in containers; {volume} on compose" + (f", {efs} of EFS on ECS" if efs else "")


def _serving(descriptor: Descriptor) -> Iterator[str]:
    bundles = descriptor.bundles
    match bundles.source:
        case FromGit():
            yield "bundles are fetched from git by proc"
        case Mounted() as source:
            yield f"bundles are in {source.folder}, mounted read-only at {ROOT}, or fetched from git"
        case Baked():
            yield f"bundles are in the image of proc, at {ROOT}"
    for name, entry in bundles.registry.bundles.items():
        where = f"{entry.git_url} at {entry.git_ref or 'its own branch'}" if entry.fetched else f"{entry.path}"
        default = ", for messages that name no bundle" if name == bundles.registry.default_bundle_id else ""
        yield f"{name}: {where}{default}"
    config = descriptor.gateway_config
    yield (
        f"gateway: {config.profile}, {config.limits.proc.max_queue_size} turns may wait, "
        f"{config.limits.ingress.max_sse_connections_per_instance} streams a process"
    )


def _knowing(descriptor: Descriptor) -> Iterator[str]:
    auth = descriptor.auth
    match auth:
        case NoProvider():
            yield "nobody: all are anonymous"
        case Tokens():
            yield "whoever has a token of the file secrets.tokens"
        case Oidc():
            yield f"whoever has a token of {auth.issuer} for {', '.join(auth.client_ids)}"
        case Cognito():
            yield f"whoever has a token of the user pool {auth.user_pool} for {auth.app_client}"
    if not isinstance(auth, NoProvider):
        yield "anonymous callers are served" if auth.anonymous else "nobody else is served"
    if isinstance(auth, Oidc | Cognito) and auth.login is not None:
        yield f"people sign in at {auth.login.public_url}/auth/login; their browsers hold a cookie, and no token"


def _secrets(descriptor: Descriptor) -> Iterator[str]:
    found = references(descriptor)
    for where, reference in found.items():
        yield f"{where} <- {reference}"
    if not found:
        yield "none"


def defaults(descriptor: Descriptor, given: Mapping[str, Any]) -> Iterator[str]:
    """``path = value`` of every field that was not given and has a value. The gateway's are shown by `config show`."""
    document = descriptor.model_dump(mode="json", by_alias=True)
    for path, value in _leaves(document, ()):
        if path[0] != "gateway" and path[:2] != ("bundles", "registry") and not _is_given(given, path):
            yield f"{dotted(path)} = {json.dumps(value)}"


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, field in cast("dict[str, Any]", value).items():
            yield from _leaves(field, (*path, name))
    elif value is not None and value not in ({}, []):
        yield path, value


def _is_given(given: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(given, dict) or part not in given:
            return False
        given = cast("dict[str, Any]", given)[part]
    return True

"""Sizes, stops, and what processes open together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from kdcube.config.documents import Finding
from kdcube.config.gateway import Valid, check_gateway_document
from kdcube.deploy.descriptor.bundles import Baked
from kdcube.deploy.descriptor.checks.rule import BOTH, COMPOSE, ECS, Rule
from kdcube.deploy.descriptor.data import PostgresContainer
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.parts import is_by_digest
from kdcube.deploy.descriptor.services import Execution, Launch, Replicated

_GB = 1_024
FARGATE_MEMORY_MB: Mapping[float, tuple[int, ...]] = MappingProxyType(
    {
        0.25: (512, _GB, 2 * _GB),
        0.5: tuple(range(_GB, 4 * _GB + 1, _GB)),
        1: tuple(range(2 * _GB, 8 * _GB + 1, _GB)),
        2: tuple(range(4 * _GB, 16 * _GB + 1, _GB)),
        4: tuple(range(8 * _GB, 30 * _GB + 1, _GB)),
        8: tuple(range(16 * _GB, 60 * _GB + 1, 4 * _GB)),
        16: tuple(range(32 * _GB, 120 * _GB + 1, 8 * _GB)),
    }
)
"""What a task on Fargate may have, by its cores. After the documentation of AWS, "Amazon ECS task size"."""
FARGATE_STOP_S = 120
"""The longest stopTimeout on Fargate; the shortest is 2 s, as of every service here."""


def sizes_are_of_fargate(descriptor: Descriptor) -> Iterator[Finding]:
    for name, service in descriptor.running.items():
        if service.launch is not Launch.FARGATE:
            continue
        memory = FARGATE_MEMORY_MB.get(service.cpu)
        if memory is None:
            cores = ", ".join(f"{cpu:g}" for cpu in FARGATE_MEMORY_MB)
            yield Finding(f"services.{name}.cpu", f"is {service.cpu:g}; on Fargate give one of {cores}")
        elif service.memory_mb not in memory:
            step = memory[-1] - memory[-2]
            yield Finding(
                f"services.{name}.memory_mb",
                f"is {service.memory_mb}; with {service.cpu:g} cores on Fargate give {memory[0]} to {memory[-1]}"
                + (f" in steps of {step}" if service.cpu != 0.25 else f" ({', '.join(map(str, memory))})"),
            )


def stops_fit_fargate(descriptor: Descriptor) -> Iterator[Finding]:
    for name, service in descriptor.running.items():
        if service.launch is Launch.FARGATE and service.stop_grace_s > FARGATE_STOP_S:
            yield Finding(
                f"services.{name}.stop_grace_s",
                f"is {service.stop_grace_s}; Fargate kills after {FARGATE_STOP_S} s: give at most that, or launch: ec2",
            )


def the_proxy_outlasts_streams(descriptor: Descriptor) -> Iterator[Finding]:
    """Streams that ingress is ending go through the proxy, while both are stopped."""
    proxy, drain = descriptor.running.get("web-proxy"), descriptor.services.ingress.stop_grace_s / 2
    if proxy is not None and proxy.stop_grace_s < drain:
        yield Finding(
            "services.web-proxy.stop_grace_s",
            f"is {proxy.stop_grace_s}; give {drain:g} at least, which streams of ingress have for their end",
        )


def the_balancer_outlasts_streams(descriptor: Descriptor) -> Iterator[Finding]:
    """A target that is taken out keeps its connections for the delay, and then until it is killed."""
    aws = descriptor.edge.aws
    if aws is None:
        return
    drain = descriptor.services.ingress.stop_grace_s / 2
    if aws.balancer.deregistration_delay_s < drain:
        yield Finding(
            "edge.aws.balancer.deregistration_delay_s",
            f"is {aws.balancer.deregistration_delay_s}; give {drain:g} at least, which streams have for their end",
        )


def connections(descriptor: Descriptor) -> Mapping[str, int]:
    """What each service may open to PostgreSQL at most: instances by processes by pool. Metrics opens none."""
    services, pools = descriptor.services, descriptor.gateway_config.pools
    found = {
        "ingress": services.ingress.most * services.ingress.processes * pools.ingress.pg_pool_max_size,
        "proc": services.proc.most * services.proc.processes * pools.proc.pg_pool_max_size,
    }
    if services.proxylogin is not None:
        found["proxylogin"] = services.proxylogin.most * pools.ingress.pg_pool_max_size
    return found


def accepted_connections(descriptor: Descriptor) -> tuple[str, int] | None:
    """Where it is said what PostgreSQL accepts, and how many that is."""
    pools = descriptor.gateway_config.pools
    told = [most for most in (pools.ingress.pg_max_connections, pools.proc.pg_max_connections) if most is not None]
    found = [("gateway.pools.pg_max_connections", min(told))] if told else []
    if isinstance(descriptor.data.postgres, PostgresContainer):
        found.append(("data.postgres.max_connections", descriptor.data.postgres.max_connections))
    return min(found, key=lambda pair: pair[1]) if found else None


def connections_are_accepted(descriptor: Descriptor) -> Iterator[Finding]:
    opened, accepted = connections(descriptor), accepted_connections(descriptor)
    if accepted is not None and sum(opened.values()) > accepted[1]:
        told = " + ".join(f"{count} of {name}" for name, count in opened.items())
        yield Finding(
            accepted[0],
            f"is {accepted[1]}, but the services may open {sum(opened.values())} connections ({told}); raise it, or "
            "lower gateway.pools.pg_pool_max_size or the numbers of instances and processes",
        )


def connections_are_accepted_in_an_upgrade(descriptor: Descriptor) -> Iterator[Finding]:
    """Instances of the old and the new release overlap, of one service at a time."""
    opened, accepted = connections(descriptor), accepted_connections(descriptor)
    if accepted is None:
        return
    total = sum(opened.values())
    most = total + max(opened.values())
    if total <= accepted[1] < most:
        yield Finding(accepted[0], f"is {accepted[1]}, but in an upgrade the services may open {most} for a while")


def processes_are_told_once(descriptor: Descriptor) -> Iterator[Finding]:
    """``services`` say how many there are; the gateway configuration is told by it."""
    checked = check_gateway_document(descriptor.gateway_document)
    if not isinstance(checked, Valid):
        return
    services = {"ingress": descriptor.services.ingress, "proc": descriptor.services.proc}
    for name, service in services.items():
        path = ("service_capacity", name, "processes_per_instance")
        told = checked.config.service_capacity.of(name).processes_per_instance
        if checked.origins[path].source == "given" and told != service.processes:
            where = "gateway." + ".".join(map(str, checked.origins[path].path))
            yield Finding(where, f"is {told}, but services.{name}.processes is {service.processes}; remove it here")


def baked_bundles_are_pinned(descriptor: Descriptor) -> Iterator[Finding]:
    image = descriptor.services.proc.image
    if isinstance(descriptor.bundles.source, Baked) and (image is None or not is_by_digest(image)):
        told = "is missing" if image is None else f"is {image}"
        yield Finding(
            "services.proc.image", f"{told}; give the image with the bundles inside by its digest, NAME@sha256:…"
        )


def images_can_be_pulled(descriptor: Descriptor) -> Iterator[Finding]:
    for name, service in descriptor.running.items():
        if service.image is None:
            yield Finding(
                f"services.{name}.image", "is missing; give one in a registry that ECS reaches, by its digest"
            )


def images_stay_what_they_are(descriptor: Descriptor) -> Iterator[Finding]:
    for name, service in descriptor.running.items():
        if service.image is not None and not is_by_digest(service.image):
            told = f"is {service.image}: a tag may name another image tomorrow; give NAME@sha256:…"
            yield Finding(f"services.{name}.image", told)


def code_is_executed_where_it_can_be(descriptor: Descriptor) -> Iterator[Finding]:
    proc = descriptor.services.proc
    if proc.launch is Launch.FARGATE and proc.execution in (Execution.DOCKER, Execution.SUBPROCESS):
        why = "no socket of Docker" if proc.execution is Execution.DOCKER else "no sandbox for processes"
        yield Finding(
            "services.proc.execution",
            f"is {proc.execution}, but Fargate has {why}; give launch: ec2, or execution: executor",
        )
    if proc.execution is Execution.EXECUTOR and descriptor.services.executor is None:
        yield Finding("services.executor", "is missing; services.proc.execution is executor, which needs it")


def compose_has_no_executor(descriptor: Descriptor) -> Iterator[Finding]:
    proc = descriptor.services.proc
    if proc.execution is Execution.EXECUTOR:
        yield Finding("services.proc.execution", "is executor, which are tasks of ECS; on compose give docker")
    if proc.execution is Execution.DOCKER and descriptor.storage.workspace.host_path is None:
        yield Finding(
            "storage.workspace.host_path",
            "is missing; give the folder of the machine that containers of executions share with proc",
        )


def the_executor_is_used(descriptor: Descriptor) -> Iterator[Finding]:
    if descriptor.services.executor is not None and descriptor.services.proc.execution in (
        Execution.NONE,
        Execution.SUBPROCESS,
    ):
        yield Finding("services.executor", "executes nothing; give services.proc.execution, or remove it")


def machines_are_there(descriptor: Descriptor) -> Iterator[Finding]:
    on_ec2 = [name for name, service in descriptor.running.items() if service.launch is Launch.EC2]
    if on_ec2 and descriptor.edge.aws is not None and descriptor.edge.aws.machines is None:
        yield Finding(
            "edge.aws.machines",
            f"is missing; launch: ec2 of {', '.join(on_ec2)} needs some, as {{instance_type: m7i.large}}",
        )


def a_rollout_can_begin(descriptor: Descriptor) -> Iterator[Finding]:
    """One instance alone: when it is lost, nobody serves until another has started."""
    for name in ("ingress", "proc", "web-proxy"):
        service = descriptor.running.get(name)
        if isinstance(service, Replicated) and service.count == 1:
            yield Finding(f"services.{name}.count", "is 1: while a lost one is replaced, nobody serves; give 2 or more")


RULES = (
    Rule(ECS, sizes_are_of_fargate),
    Rule(ECS, stops_fit_fargate),
    Rule(BOTH, the_proxy_outlasts_streams),
    Rule(ECS, the_balancer_outlasts_streams),
    Rule(BOTH, connections_are_accepted),
    Rule(BOTH, connections_are_accepted_in_an_upgrade, refuses=False),
    Rule(BOTH, processes_are_told_once),
    Rule(BOTH, baked_bundles_are_pinned),
    Rule(ECS, images_can_be_pulled),
    Rule(ECS, images_stay_what_they_are, refuses=False),
    Rule(ECS, code_is_executed_where_it_can_be),
    Rule(COMPOSE, compose_has_no_executor),
    Rule(BOTH, the_executor_is_used, refuses=False),
    Rule(ECS, machines_are_there),
    Rule(ECS, a_rollout_can_begin, refuses=False),
)

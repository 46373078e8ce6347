"""What runs: image, size and number of each service."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kdcube.config.environment import Number, Whole
from kdcube.config.sections import contradiction
from kdcube.deploy.descriptor.parts import Flag, Image, Part, like

EnvName = Annotated[str, like(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", "LOG_LEVEL")]
Count = Annotated[Whole, Field(ge=1, le=1_000)]
StopGrace = Annotated[Whole, Field(ge=2, le=3_600)]


class Launch(StrEnum):
    FARGATE = "fargate"
    EC2 = "ec2"


class Execution(StrEnum):
    """Where code of turns is executed."""

    NONE = "none"
    SUBPROCESS = "subprocess"
    DOCKER = "docker"
    EXECUTOR = "executor"


class Scaling(Part):
    """On ECS: between how many instances the service moves."""

    min: Count = 1
    """At least."""
    max: Count
    """At most."""
    target: Annotated[Number, Field(gt=0, le=1_000)] | None = None
    """What is aimed at: for ingress the share of its streams that are open (0.6), for proc the turns that
    wait per slot (0.5)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise contradiction(("min", self.min), ("max", self.max))
        return self


class Service(Part):
    """What every service has."""

    image: Image | None = None
    """With a tag or a digest; without it, the image of this release by its own name."""
    cpu: Annotated[Number, Field(gt=0, le=192)] = 0.25
    """Cores of one instance."""
    memory_mb: Annotated[Whole, Field(ge=64, le=16_777_216)] = 512
    """MiB of one instance."""
    launch: Launch = Launch.FARGATE
    """On ECS: ``fargate`` or ``ec2``."""
    stop_grace_s: StopGrace = 30
    """From SIGTERM until it is killed."""
    env: dict[EnvName, str] = Field(default_factory=dict[str, str], max_length=100)
    """Further variables, as texts: those that are read by this service, and that no other field says."""


class Replicated(Service):
    """A service of which there may be several instances."""

    count: Count = 1
    """Instances; with ``scaling``, at the start."""
    scaling: Scaling | None = None
    """On ECS; without it the number stays."""

    @property
    def most(self) -> int:
        """Instances at most."""
        return self.count if self.scaling is None else max(self.count, self.scaling.max)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.scaling is not None and not self.scaling.min <= self.count <= self.scaling.max:
            raise ValueError(
                f"count is {self.count}; give one from scaling.min ({self.scaling.min}) to max ({self.scaling.max})"
            )
        return self


class Ingress(Replicated):
    """Takes messages, and streams what becomes of them."""

    cpu: Annotated[Number, Field(gt=0, le=192)] = 1.0
    """Cores of one instance."""
    memory_mb: Annotated[Whole, Field(ge=64, le=16_777_216)] = 2_048
    """MiB of one instance."""
    processes: Annotated[Whole, Field(ge=1, le=64)] = 1
    """Server processes of one instance; one core each is enough."""


class Proc(Replicated):
    """Runs turns and operations of bundles."""

    cpu: Annotated[Number, Field(gt=0, le=192)] = 2.0
    """Cores of one instance."""
    memory_mb: Annotated[Whole, Field(ge=64, le=16_777_216)] = 4_096
    """MiB of one instance."""
    stop_grace_s: StopGrace = 120
    """From SIGTERM until it is killed; running turns have all but the last 10 seconds of it."""
    processes: Annotated[Whole, Field(ge=1, le=64)] = 1
    """Processes of one instance."""
    slots: Annotated[Whole, Field(ge=1, le=1_000)] | None = None
    """Turns at once in one process; without it, what ``gateway`` says under ``service_capacity``."""
    turn_limit_s: Annotated[Whole, Field(ge=1, le=86_400)] = 1_800
    """What a turn may take at most, whatever its bundle allows."""
    execution: Execution = Execution.NONE
    """Where code of turns is executed: nowhere, beside proc in a sandbox (``subprocess``), in containers by the socket
    of Docker (``docker``), or in tasks of ``services.executor`` (``executor``)."""


class CloudWatch(Part):
    """Metrics to CloudWatch."""

    namespace: Annotated[str, like(r"^[A-Za-z0-9._/#-]{1,255}$", "KDCube")] = "KDCube"
    """Under which they stand there."""
    dimensions: dict[str, str] = Field(default_factory=dict[str, str], max_length=30)
    """Of each of them."""


class Metrics(Service):
    """Adds up what the others count. There is one of it."""

    interval_s: Annotated[Whole, Field(ge=5, le=3_600)] = 30
    """Between two exports."""
    cloudwatch: CloudWatch | None = None
    """Where to in CloudWatch; without it, nothing goes there."""
    push_gateway: Annotated[str, like(r"^https?://[A-Za-z0-9.:_/-]+$", "http://push:9091")] | None = None
    """The URL of a Prometheus push gateway; without it, Prometheus asks itself."""
    mapping: dict[str, Any] = Field(default_factory=dict[str, Any], max_length=200)
    """METRICS_MAPPING_JSON: other names for signals."""


class WebProxy(Replicated):
    """nginx in front of all, for ``edge: proxy``, where it is there without being named."""

    cpu: Annotated[Number, Field(gt=0, le=192)] = 0.5
    """Cores of one instance."""
    memory_mb: Annotated[Whole, Field(ge=64, le=16_777_216)] = 1_024
    """MiB of one instance."""
    stop_grace_s: StopGrace = 60
    """From SIGTERM until it is killed: streams go through it, so no less than half of that of ingress."""


class ProxyLogin(Replicated):
    """Signs people in at a provider. Its settings are ``auth.login``."""


class WebUi(Replicated):
    """The browser application."""


class Executor(Replicated):
    """Executes code of turns: tasks that wait for some (``executor``), or the image of containers (``docker``)."""

    cpu: Annotated[Number, Field(gt=0, le=192)] = 1.0
    """Cores of one instance."""
    memory_mb: Annotated[Whole, Field(ge=64, le=16_777_216)] = 2_048
    """MiB of one instance."""
    timeout_s: Annotated[Whole, Field(ge=1, le=86_400)] = 600
    """What one execution may take."""
    network: Flag = False
    """Whether executed code may reach the network."""


class Services(Part):
    """By name. ``ingress``, ``proc`` and ``metrics`` are always there, the others when they are named."""

    ingress: Ingress = Ingress()
    proc: Proc = Proc()
    metrics: Metrics = Metrics()
    web_proxy: WebProxy | None = Field(default=None, alias="web-proxy")
    proxylogin: ProxyLogin | None = None
    web_ui: WebUi | None = Field(default=None, alias="web-ui")
    executor: Executor | None = None

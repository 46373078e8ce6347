"""What there is already on AWS, or is to be made there. Renderers of ECS read it; compose needs none of it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kdcube.config.environment import Whole
from kdcube.config.sections import contradiction
from kdcube.deploy.descriptor.parts import Flag, Name, NetworkText, Part, Region, like


def _id(prefix: str) -> Any:
    return like(rf"^{prefix}-[0-9a-f]{{8,17}}$", f"{prefix}-0123456789abcdef0")


def _arn(service: str) -> Any:
    return like(rf"^arn:aws[a-z-]*:{service}:[A-Za-z0-9:/_.+=,@-]+$", f"arn:aws:{service}:…")


Vpc = Annotated[str, _id("vpc")]
Subnet = Annotated[str, _id("subnet")]
SecurityGroup = Annotated[str, _id("sg")]
FileSystem = Annotated[str, _id("fs")]
AccessPoint = Annotated[str, _id("fsap")]
BalancerArn = Annotated[str, _arn("elasticloadbalancing")]
CertificateArn = Annotated[str, _arn("acm")]
TopicArn = Annotated[str, _arn("sns")]
PolicyArn = Annotated[str, _arn("iam")]
Account = Annotated[str, like(r"^[0-9]{12}$", '"123456789012"')]
HostedZone = Annotated[str, like(r"^Z[A-Z0-9]{4,31}$", "Z0123456789ABC")]
InstanceType = Annotated[str, like(r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$", "m7i.large")]
TagName = Annotated[str, like(r"^[A-Za-z0-9 _.:/=+@-]{1,128}$", "team")]


class Network(Part):
    """The VPC in which tasks stand: one that is there, or a new one."""

    vpc: Vpc | None = None
    """One that is there; without it a new one is made."""
    public_subnets: Annotated[tuple[Subnet, ...], Field(max_length=16)] = ()
    """Of ``vpc``: where the load balancer stands, in two zones at least."""
    private_subnets: Annotated[tuple[Subnet, ...], Field(max_length=16)] = ()
    """Of ``vpc``: where tasks and stores stand, in two zones at least, with a way out to AWS."""
    cidr: NetworkText = "10.64.0.0/16"
    """Of a new VPC."""
    zones: Annotated[Whole, Field(ge=2, le=6)] = 2
    """Availability zones of a new VPC."""
    nat_per_zone: Flag = False
    """Whether each zone of a new VPC has a NAT gateway of its own; one alone is cheaper, and fails with its zone."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        subnets = (("public_subnets", self.public_subnets), ("private_subnets", self.private_subnets))
        for name, ids in subnets:
            if self.vpc is None and ids:
                raise ValueError(f"{name} are of a VPC that is there; give vpc, or leave {name} out")
            if self.vpc is not None and len(set(ids)) < 2:
                raise ValueError(f"{name} must be two at least, in different zones, when vpc is given")
        return self


class Balancer(Part):
    """The application load balancer: one that is there, or a new one."""

    arn: BalancerArn | None = None
    """One that is there; without it a new one is made."""
    listener: BalancerArn | None = None
    """Its listener whose rules are ours. Required with ``arn``."""
    security_group: SecurityGroup | None = None
    """Its group, from which tasks take connections. Required with ``arn``."""
    internal: Flag = False
    """Whether a new one is reached from inside of its network only."""
    deregistration_delay_s: Annotated[Whole, Field(ge=0, le=3_600)] = 60
    """How long open requests may go on when a task is taken out."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("listener", "security_group"):
            if (getattr(self, name) is None) != (self.arn is None):
                raise ValueError(f"{name} goes with arn: give both of them, or neither")
        return self


class Machines(Part):
    """EC2 instances of the cluster, for services with ``launch: ec2``."""

    instance_type: InstanceType = "m7i.large"
    """What kind."""
    min: Annotated[Whole, Field(ge=0, le=1_000)] = 1
    """How many there are at least."""
    max: Annotated[Whole, Field(ge=1, le=1_000)] = 4
    """How many there are at most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise contradiction(("min", self.min), ("max", self.max))
        return self


class Aws(Part):
    """The account, the region, and what is given there."""

    region: Region
    """Where everything is."""
    account: Account | None = None
    """Whose it is: 12 digits, quoted. With it, nothing is deployed into another one by mistake."""
    network: Network = Network()
    """Where tasks stand."""
    balancer: Balancer = Balancer()
    """What people reach."""
    machines: Machines | None = None
    """EC2 instances; required for ``launch: ec2``."""
    cluster: Name | None = None
    """An ECS cluster that is there; without it a new one is made."""
    hosted_zone: HostedZone | None = None
    """The zone of Route 53 in which ``edge.hosts`` get their names; without it, somebody else does that."""
    log_retention_days: Annotated[Whole, Field(ge=1, le=3_653)] = 30
    """How long CloudWatch keeps logs."""
    alarm_topic: TopicArn | None = None
    """Who is told of alarms; without it they are seen on the dashboard alone."""
    permissions_boundary: PolicyArn | None = None
    """What the roles that are made may be at most."""
    tags: dict[TagName, str] = Field(default_factory=dict[str, str], max_length=40)
    """On everything that is made."""

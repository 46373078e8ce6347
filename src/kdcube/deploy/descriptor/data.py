"""Where data is: the two stores, and files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from kdcube.config.environment import Whole
from kdcube.deploy.descriptor.aws import AccessPoint, FileSystem
from kdcube.deploy.descriptor.edge import Port
from kdcube.deploy.descriptor.parts import AbsolutePath, Flag, Folder, Host, Image, Part, StoragePath, like

Days = Annotated[Whole, Field(ge=0, le=35)]
Memory = Annotated[Whole, Field(ge=64, le=16_777_216)]
UserName = Annotated[str, like(r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}$", "kdcube")]
Version = Annotated[str, like(r"^[0-9]+(\.[0-9]+)?$", '"17"')]


class ValkeyContainer(Part):
    """A container beside the services, for compose."""

    kind: Literal["container"]
    image: Image = "valkey/valkey:9"
    """With a tag or a digest."""
    memory_mb: Memory = 1_024
    """MiB that it may take."""


class ValkeyGiven(Part):
    """A server that is there. Its password is ``secrets.valkey_password``."""

    kind: Literal["given"]
    host: Host
    """Its primary."""
    port: Port = 6379
    """Where it listens."""
    tls: Flag = True
    """Whether it is talked to by TLS."""
    authorities: Folder | None = None
    """A file in PEM with the authorities that vouch for it; without it, those of the system."""
    user: UserName | None = None
    """Of its ACL; without one, the default user."""
    metrics_user: UserName | None = None
    """A user that only reads, for the metrics service; without one, it comes as the others do."""
    database: Annotated[Whole, Field(ge=0, le=1_023)] = 0
    """By number."""


class ValkeyManaged(Part):
    """A replication group of ElastiCache, made for this deployment; cluster mode is off."""

    kind: Literal["managed"]
    node_type: Annotated[str, like(r"^cache\.[a-z0-9]+\.[a-z0-9]+$", "cache.m7g.large")] = "cache.m7g.large"
    """What kind of machine."""
    replicas: Annotated[Whole, Field(ge=0, le=5)] = 1
    """Beside the primary, in other zones."""
    version: Version = "8.0"
    """Of Valkey."""
    snapshot_retention_days: Days = 7
    """How long daily snapshots are kept; 0: none are made."""


Valkey: TypeAlias = Annotated[ValkeyContainer | ValkeyGiven | ValkeyManaged, Field(discriminator="kind")]


class PostgresTls(StrEnum):
    """As libpq calls them."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class PostgresContainer(Part):
    """A container beside the services, for compose."""

    kind: Literal["container"]
    image: Image = "postgres:17"
    """With a tag or a digest."""
    memory_mb: Memory = 2_048
    """MiB that it may take."""
    max_connections: Annotated[Whole, Field(ge=10, le=10_000)] = 100
    """What it accepts in all."""


class PostgresGiven(Part):
    """A server that is there. Its password is ``secrets.postgres_password``."""

    kind: Literal["given"]
    host: Host
    """Where it is."""
    port: Port = 5432
    """Where it listens."""
    database: UserName = "kdcube"
    """By name."""
    user: UserName = "kdcube"
    """Who owns the schema."""
    tls: PostgresTls = PostgresTls.VERIFY_FULL
    """How it is talked to."""
    authorities: Folder | None = None
    """A file in PEM with the authorities that vouch for it; without it, those of the system."""


class PostgresManaged(Part):
    """An instance of RDS, made for this deployment, encrypted, never replaced by a deployment."""

    kind: Literal["managed"]
    instance_class: Annotated[str, like(r"^db\.[a-z0-9]+\.[a-z0-9]+$", "db.m7g.large")] = "db.m7g.large"
    """What kind of machine."""
    storage_gb: Annotated[Whole, Field(ge=20, le=65_536)] = 100
    """GiB at the start; it grows by itself."""
    version: Version = "17"
    """Of PostgreSQL."""
    multi_az: Flag = True
    """Whether another zone has a copy that takes over."""
    backup_retention_days: Annotated[Whole, Field(ge=1, le=35)] = 7
    """How long daily backups are kept."""
    deletion_protection: Flag = True
    """Whether deleting it is refused."""


Postgres: TypeAlias = Annotated[PostgresContainer | PostgresGiven | PostgresManaged, Field(discriminator="kind")]


class Data(Part):
    """The stores. A text stands for ``kind`` alone."""

    valkey: Valkey = ValkeyContainer(kind="container")
    """The working state of live turns; it can be rebuilt from PostgreSQL."""
    postgres: Postgres = PostgresContainer(kind="container")
    """The truth about turns, conversations, logins and the configuration."""


class Efs(Part):
    """The shared file system on ECS: one that is there, or a new one."""

    file_system: FileSystem | None = None
    """One that is there; without it a new one is made."""
    storage: AccessPoint | None = None
    """An access point that is there for ``storage.path``."""
    bundles: AccessPoint | None = None
    """An access point that is there for mounted bundles, which are mounted read-only."""
    workspace: AccessPoint | None = None
    """An access point that is there for the workspace of executions."""


class Workspace(Part):
    """Where executed code finds and leaves its files."""

    path: AbsolutePath = "/exec-workspace"
    """In the containers."""
    host_path: AbsolutePath | None = None
    """On the machine whose Docker runs the containers of executions. Required for ``execution: docker``."""


class Storage(Part):
    """Files of users and bundles."""

    path: StoragePath = "file:///storage"
    """``file:///FOLDER`` in the containers, or ``s3://BUCKET/PREFIX``."""
    volume: Annotated[Folder, Field(max_length=1_024)] | None = None
    """On compose, the folder of the machine for ``file:``; without it, a volume of Docker."""
    efs: Efs | None = None
    """On ECS, the file system for ``file:``, mounted bundles and the workspace."""
    workspace: Workspace = Workspace()
    """Of executions."""

"""Where data, bundles and secrets are."""

from __future__ import annotations

from collections.abc import Iterator

from kdcube.config.bundles import BundleEntry
from kdcube.config.documents import Finding, dotted
from kdcube.config.git import GitAddress, GitTransport
from kdcube.config.secrets import SecretReference, Vault
from kdcube.deploy.descriptor.auth import Cognito, Oidc, Tokens
from kdcube.deploy.descriptor.bundles import ROOT, FromGit, Mounted
from kdcube.deploy.descriptor.checks.rule import BOTH, COMPOSE, ECS, Rule
from kdcube.deploy.descriptor.data import (
    PostgresContainer,
    PostgresGiven,
    PostgresManaged,
    PostgresTls,
    ValkeyContainer,
    ValkeyGiven,
    ValkeyManaged,
)
from kdcube.deploy.descriptor.edge import GivenTls
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.references import Reference
from kdcube.telemetry.redaction import looks_secret

_ENTRIES = ("bundles", "registry", "bundles")


def stores_are_not_in_tasks(descriptor: Descriptor) -> Iterator[Finding]:
    """A task's disk goes with the task."""
    for name, store in (("valkey", descriptor.data.valkey), ("postgres", descriptor.data.postgres)):
        if isinstance(store, ValkeyContainer | PostgresContainer):
            yield Finding(f"data.{name}.kind", "is container, whose data would go with its task; give managed or given")


def stores_are_not_made_by_compose(descriptor: Descriptor) -> Iterator[Finding]:
    for name, store in (("valkey", descriptor.data.valkey), ("postgres", descriptor.data.postgres)):
        if isinstance(store, ValkeyManaged | PostgresManaged):
            yield Finding(f"data.{name}.kind", "is managed, which compose cannot make; give container or given")


def stores_are_talked_to_in_secret(descriptor: Descriptor) -> Iterator[Finding]:
    valkey, postgres = descriptor.data.valkey, descriptor.data.postgres
    if isinstance(valkey, ValkeyGiven) and not valkey.tls:
        yield Finding("data.valkey.tls", "is false: passwords and texts can be read on their way")
    if isinstance(postgres, PostgresGiven) and postgres.tls in (PostgresTls.DISABLE, PostgresTls.PREFER):
        yield Finding("data.postgres.tls", f"is {postgres.tls}: passwords and texts can be read on their way")


def files_are_kept(descriptor: Descriptor) -> Iterator[Finding]:
    """What a task writes beside EFS goes with it, and no other task sees it."""
    if descriptor.storage.path.startswith("file:") and descriptor.storage.efs is None:
        yield Finding(
            "storage.path", "is a folder, which tasks share on EFS alone; give storage.efs, or s3://BUCKET/PREFIX"
        )


def access_points_are_of_a_file_system(descriptor: Descriptor) -> Iterator[Finding]:
    efs = descriptor.storage.efs
    if efs is not None and efs.file_system is None:
        for name in ("storage", "bundles", "workspace"):
            if getattr(efs, name) is not None:
                yield Finding(f"storage.efs.{name}", "is of a file system that is there; give storage.efs.file_system")


def mounted_bundles_are_on_efs(descriptor: Descriptor) -> Iterator[Finding]:
    if isinstance(descriptor.bundles.source, Mounted) and descriptor.storage.efs is None:
        yield Finding("storage.efs", "is missing; mounted bundles are on it, so give it, or source git or baked")


def entries_are_where_code_is(descriptor: Descriptor) -> Iterator[Finding]:
    """A path leads into the folder that is there, and only where there is one."""
    for name, entry in _entries(descriptor):
        if entry.path is None:
            continue
        where = dotted((*_ENTRIES, name, "path"))
        if isinstance(descriptor.bundles.source, FromGit):
            yield Finding(where, "leads nowhere, as bundles.source is git; give git_url, or source mounted or baked")
        elif entry.path.startswith("/") and not entry.path.startswith(f"{ROOT}/"):
            yield Finding(where, f"is outside of {ROOT}, where bundles are; give it from there on")
        elif ".." in entry.path.split("/"):
            yield Finding(where, f"leads out of {ROOT}; give it without ..")


def entries_hold_no_secrets(descriptor: Descriptor) -> Iterator[Finding]:
    for name, entry in _entries(descriptor):
        if (found := looks_secret(entry.config)) is not None:
            yield Finding(
                dotted((*_ENTRIES, name, "config")) + f".{found}",
                "looks like a secret, and this file keeps none: grant it by reference under secrets",
            )


def granted_secrets_are_somewhere(descriptor: Descriptor) -> Iterator[Finding]:
    """Names that an entry asks for are references under ``secrets.bundles``; references by AWS need nothing here."""
    known = descriptor.secrets.bundles
    for bundle, entry in _entries(descriptor):
        for field, reference in _asked(entry):
            if reference.vault in (None, Vault.ENV, Vault.FILE) and reference.name not in known:
                yield Finding(
                    dotted((*_ENTRIES, bundle, field)),
                    f"names {reference.name}, which is nowhere; give its reference as secrets.bundles.{reference.name}",
                )


def granted_secrets_come_as_files(descriptor: Descriptor) -> Iterator[Finding]:
    """What is in a variable is in every `docker inspect`."""
    for bundle, entry in _entries(descriptor):
        for field, reference in _asked(entry):
            if reference.vault is Vault.ENV:
                yield Finding(
                    dotted((*_ENTRIES, bundle, field)),
                    f"asks for a variable, and on compose secrets are in files; give file:{reference.name}",
                )


def granted_secrets_are_asked_for(descriptor: Descriptor) -> Iterator[Finding]:
    asked = {reference.name for _, entry in _entries(descriptor) for _, reference in _asked(entry)}
    for name in descriptor.secrets.bundles:
        if name not in asked and descriptor.bundles.registry.bundles:
            yield Finding(f"secrets.bundles.{name}", "is asked for by no entry of bundles.registry")


def repositories_can_be_read(descriptor: Descriptor) -> Iterator[Finding]:
    """By ssh it takes a key, and the keys of the servers."""
    secrets = descriptor.secrets
    for name, entry in _entries(descriptor):
        if entry.fetched and GitAddress.parse(entry.git_url or "").transport is GitTransport.SSH:
            where = dotted((*_ENTRIES, name, "git_url"))
            if secrets.git_ssh_key is None and entry.git_ssh_key is None:
                yield Finding(where, "is of ssh, which takes a key; give secrets.git_ssh_key")
            if secrets.git_known_hosts is None:
                yield Finding(where, "is of ssh, which takes the servers' keys; give secrets.git_known_hosts")


def needed_secrets_are_there(descriptor: Descriptor) -> Iterator[Finding]:
    secrets, data = descriptor.secrets, descriptor.data
    needed = {
        "session": ("it signs sessions", True),
        "postgres_password": ("PostgreSQL asks for it", not isinstance(data.postgres, PostgresManaged)),
        "valkey_password": ("a container of Valkey has one", isinstance(data.valkey, ValkeyContainer)),
        "metrics_password": (
            "data.valkey.metrics_user needs it",
            isinstance(data.valkey, ValkeyGiven) and data.valkey.metrics_user is not None,
        ),
        "encryption_keys": ("services.proxylogin seals logins with them", descriptor.services.proxylogin is not None),
        "tokens": ("auth simple reads them", isinstance(descriptor.auth, Tokens)),
    }
    for name, (why, is_needed) in needed.items():
        if is_needed and getattr(secrets, name) is None:
            yield Finding(f"secrets.{name}", f"is missing: {why}; give a reference, such as file:secrets/{name}")


def secrets_are_used(descriptor: Descriptor) -> Iterator[Finding]:
    secrets = descriptor.secrets
    if secrets.oidc_client_secret is not None and not isinstance(descriptor.auth, Oidc | Cognito):
        yield Finding("secrets.oidc_client_secret", f"is not used: auth.provider is {descriptor.auth.provider}")
    if secrets.postgres_password is not None and isinstance(descriptor.data.postgres, PostgresManaged):
        yield Finding("secrets.postgres_password", "is not used: a managed PostgreSQL makes its own, and rotates it")


def references(descriptor: Descriptor) -> dict[str, Reference]:
    """All of them, by their path."""
    found = {f"secrets.{name}": reference for name, reference in descriptor.secrets.given.items()}
    if isinstance(descriptor.tls, GivenTls):
        for name in ("certificate", "key"):
            if (reference := getattr(descriptor.tls, name)) is not None:
                found[f"tls.{name}"] = reference
    return found


def tasks_read_secrets_in_aws(descriptor: Descriptor) -> Iterator[Finding]:
    """A task definition holds references to AWS alone; a value in it could be read by everybody who sees the task."""
    for where, reference in references(descriptor).items():
        if not reference.in_aws and not where.startswith("tls."):
            yield Finding(where, f"is in {reference.vault}:, which tasks cannot read; give sm:NAME or ssm:NAME")


def compose_asks_aws(descriptor: Descriptor) -> Iterator[Finding]:
    in_aws = [where for where, reference in references(descriptor).items() if reference.in_aws]
    if in_aws:
        more = f" and {len(in_aws) - 1} more" if len(in_aws) > 1 else ""
        yield Finding(in_aws[0], f"is in AWS{more}: on compose, whoever deploys needs credentials of AWS, and a region")
    if descriptor.storage.path.startswith("s3:"):
        yield Finding("storage.path", "is in S3: on compose, the machine needs a role or credentials of AWS")


def _entries(descriptor: Descriptor) -> Iterator[tuple[str, BundleEntry]]:
    yield from descriptor.bundles.registry.bundles.items()


def _asked(entry: BundleEntry) -> Iterator[tuple[str, SecretReference]]:
    for name, reference in entry.secret_references.items():
        yield (f"secrets.{name}" if isinstance(entry.secrets, dict) else "secrets"), reference
    for field in ("webhook_secret", "git_token", "git_ssh_key"):
        if (text := getattr(entry, field)) is not None:
            yield field, SecretReference.parse(text)


RULES = (
    Rule(ECS, stores_are_not_in_tasks),
    Rule(COMPOSE, stores_are_not_made_by_compose),
    Rule(BOTH, stores_are_talked_to_in_secret, refuses=False),
    Rule(ECS, files_are_kept),
    Rule(ECS, access_points_are_of_a_file_system),
    Rule(ECS, mounted_bundles_are_on_efs),
    Rule(BOTH, entries_are_where_code_is),
    Rule(BOTH, entries_hold_no_secrets),
    Rule(BOTH, granted_secrets_are_somewhere),
    Rule(COMPOSE, granted_secrets_come_as_files),
    Rule(BOTH, granted_secrets_are_asked_for, refuses=False),
    Rule(BOTH, repositories_can_be_read),
    Rule(BOTH, needed_secrets_are_there),
    Rule(BOTH, secrets_are_used, refuses=False),
    Rule(ECS, tasks_read_secrets_in_aws),
    Rule(COMPOSE, compose_asks_aws, refuses=False),
)

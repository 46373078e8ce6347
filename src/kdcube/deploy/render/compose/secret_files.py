"""The secrets of a deployment by compose: which files there are, what each is made of, and who reads it.

Here is how they are made, never what they hold: ``SecretFile.text`` is called with the values by whoever deploys.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from urllib.parse import quote, urlencode

from kdcube.config.bundles import BundleEntry
from kdcube.config.secrets import SecretReference, Vault
from kdcube.deploy.descriptor.data import PostgresContainer, PostgresGiven, PostgresTls, ValkeyContainer, ValkeyGiven
from kdcube.deploy.descriptor.edge import GivenTls, NoTls
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.references import Reference
from kdcube.redis.keys import Keys
from kdcube.redis.permissions import reading_rule

MOUNTED = "/run/secrets"
"""Where compose puts them in the containers."""
GRANTED = "/run/granted"
"""Where the secrets of bundles are in the containers."""
AUTHORITIES = "/run/authorities"
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
DATABASE = "kdcube"
"""The database of a container, and the user who owns it."""
VALKEY_USER, METRICS_USER = "kdcube", "metrics"
CERTIFICATE, KEY = "tls_certificate", "tls_key"

_WITH_STORES = ("ingress", "proc", "proxylogin")


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file below the folder of secrets. ``readers``: services by name, and the variable that tells each of it, or
    none where it is told otherwise.
    """

    name: str
    needs: tuple[Reference, ...]
    text: Callable[..., str]
    """Of the values of ``needs``, in their order."""
    readers: Mapping[str, str | None]

    @property
    def mounted(self) -> str:
        """Its path in the containers."""
        return f"{MOUNTED}/{self.name}"


def granted_files(descriptor: Descriptor) -> Mapping[str, Reference]:
    """The secrets of bundles by the names of their files: ``proc/NAME`` for what a bundle is granted, ``ingress/NAME``
    for keys by which repositories sign pushes.
    """
    found: dict[str, Reference] = {}
    for entry in descriptor.bundles.registry.bundles.values():
        for service, reference in _granted(entry):
            if reference.vault in (None, Vault.FILE) and (value := descriptor.secrets.bundles.get(reference.name)):
                found[f"{service}/{reference.name}"] = value
    return dict(sorted(found.items()))


def secret_files(descriptor: Descriptor) -> tuple[SecretFile, ...]:
    """All but those of bundles. Without the certificate that is made where ``tls`` is self-signed."""
    return tuple(_files(descriptor))


def secret_names(descriptor: Descriptor, service: str) -> tuple[str, ...]:
    """Those that a service reads."""
    names = [file.name for file in secret_files(descriptor) if service in file.readers]
    if service == "web-proxy" and not isinstance(descriptor.tls, NoTls):
        names += [name for name in (CERTIFICATE, KEY) if name not in names]
    return tuple(names)


def _granted(entry: BundleEntry) -> Iterator[tuple[str, SecretReference]]:
    for reference in entry.secret_references.values():
        yield "proc", reference
    for text in (entry.git_token, entry.git_ssh_key):
        if text is not None:
            yield "proc", SecretReference.parse(text)
    if entry.webhook_secret is not None:
        yield "ingress", SecretReference.parse(entry.webhook_secret)


def _files(descriptor: Descriptor) -> Iterator[SecretFile]:
    yield from _valkey(descriptor)
    yield from _postgres(descriptor)
    secrets = descriptor.secrets
    signs_in = descriptor.services.proxylogin is not None
    plain: tuple[tuple[str, Reference | None, Mapping[str, str | None]], ...] = (
        ("session", secrets.session, dict.fromkeys(("ingress", "proc"), "KDCUBE_SESSION_SECRET_FILE")),
        (
            "encryption_keys",
            secrets.encryption_keys if signs_in else None,
            dict.fromkeys(_WITH_STORES, "PROXYLOGIN_ENCRYPTION_KEYS_FILE"),
        ),
        (
            "oidc_client_secret",
            secrets.oidc_client_secret if signs_in else None,
            {"proxylogin": "OIDC_CLIENT_SECRET_FILE"},
        ),
        (
            "tokens",
            secrets.tokens if descriptor.auth.provider == "simple" else None,
            dict.fromkeys(("ingress", "proc"), "IDP_DB_PATH"),
        ),
        ("git_token", secrets.git_token, {"proc": "GIT_HTTP_TOKEN_FILE"}),
        ("git_ssh_key", secrets.git_ssh_key, {"proc": "GIT_SSH_KEY_PATH"}),
        ("git_known_hosts", secrets.git_known_hosts, {"proc": "GIT_SSH_KNOWN_HOSTS"}),
        ("package_index", secrets.package_index, {"proc": "UV_DEFAULT_INDEX_FILE"}),
    )
    for name, reference, readers in plain:
        if reference is not None:
            there = {service: variable for service, variable in readers.items() if service in descriptor.running}
            yield SecretFile(name, (reference,), str, there)
    if isinstance(descriptor.tls, GivenTls):
        for name, reference in ((CERTIFICATE, descriptor.tls.certificate), (KEY, descriptor.tls.key)):
            if reference is not None:
                yield SecretFile(name, (reference,), str, {"web-proxy": None})


def _valkey(descriptor: Descriptor) -> Iterator[SecretFile]:
    valkey, secrets = descriptor.data.valkey, descriptor.secrets
    needs = tuple(each for each in (secrets.valkey_password,) if each is not None)
    own = tuple(each for each in (secrets.metrics_password,) if each is not None)
    services = [name for name in _WITH_STORES if name in descriptor.running]
    readers: dict[str, str | None] = dict.fromkeys(services, "REDIS_URL_FILE")
    match valkey:
        case ValkeyContainer():
            rule = " ".join(reading_rule(Keys(descriptor.tenant, descriptor.project)))

            def metrics_password(password: str, given: str | None = None) -> str:
                return given or hmac.new(password.encode(), METRICS_USER.encode(), sha256).hexdigest()

            def rules(password: str, given: str | None = None) -> str:
                reader = _hashed(metrics_password(password, given))
                return (
                    "user default on nopass resetkeys resetchannels -@all +ping\n"  # for the container's health alone
                    f"user {VALKEY_USER} on #{_hashed(password)} ~* &* +@all\n"
                    f"user {METRICS_USER} on #{reader} {rule}\n"
                )

            yield SecretFile("valkey_users", (*needs, *own), rules, {"valkey": None})
            yield SecretFile("redis_url", needs, partial(_url, VALKEY_USER), readers)
            yield SecretFile(
                "redis_url_metrics",
                (*needs, *own),
                lambda *values: _url(METRICS_USER, metrics_password(*values)),
                {"metrics": "REDIS_URL_FILE"},
            )
        case ValkeyGiven():
            if valkey.metrics_user is None:
                yield SecretFile(
                    "redis_url",
                    needs,
                    partial(_given_url, valkey, valkey.user),
                    {**readers, "metrics": "REDIS_URL_FILE"},
                )
                return
            yield SecretFile("redis_url", needs, partial(_given_url, valkey, valkey.user), readers)
            yield SecretFile(
                "redis_url_metrics",
                own,
                partial(_given_url, valkey, valkey.metrics_user),
                {"metrics": "REDIS_URL_FILE"},
            )
        case _:
            return


def _hashed(password: str) -> str:
    return sha256(password.encode()).hexdigest()


def _url(user: str, password: str) -> str:
    return f"redis://{user}:{quote(password, safe='')}@valkey:6379/0"


def _given_url(valkey: ValkeyGiven, user: str | None, password: str | None = None) -> str:
    sign_in = "" if password is None else f"{quote(user or '', safe='')}:{quote(password, safe='')}@"
    query = f"?{urlencode({'ssl_ca_certs': f'{AUTHORITIES}/valkey.pem'})}" if valkey.tls and valkey.authorities else ""
    scheme = "rediss" if valkey.tls else "redis"
    return f"{scheme}://{sign_in}{valkey.host}:{valkey.port}/{valkey.database}{query}"


def _postgres(descriptor: Descriptor) -> Iterator[SecretFile]:
    postgres, password = descriptor.data.postgres, descriptor.secrets.postgres_password
    needs = () if password is None else (password,)
    services = [name for name in _WITH_STORES if name in descriptor.running]
    readers: dict[str, str | None] = dict.fromkeys((*services, "db-upgrade"), "DATABASE_URL_FILE")
    match postgres:
        case PostgresContainer():
            yield SecretFile("postgres_password", needs, str, {"postgres": "POSTGRES_PASSWORD_FILE"})
            yield SecretFile("database_url", needs, _own_database, readers)
        case PostgresGiven():
            yield SecretFile("database_url", needs, partial(_given_database, postgres), readers)
        case _:
            return


def _own_database(password: str) -> str:
    return f"postgresql://{DATABASE}:{quote(password, safe='')}@postgres:5432/{DATABASE}"


def _given_database(postgres: PostgresGiven, password: str | None = None) -> str:
    sign_in = quote(postgres.user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
    query = {"sslmode": str(postgres.tls)}
    if postgres.tls in (PostgresTls.VERIFY_CA, PostgresTls.VERIFY_FULL):
        query["sslrootcert"] = f"{AUTHORITIES}/postgres.pem" if postgres.authorities else SYSTEM_AUTHORITIES
    database = quote(postgres.database, safe="")
    return f"postgresql://{sign_in}@{postgres.host}:{postgres.port}/{database}?{urlencode(query)}"

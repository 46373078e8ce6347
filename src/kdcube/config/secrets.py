"""Secrets by reference: in which vault a value is, never the value itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, SecretStr

from kdcube.config.environment import Environment
from kdcube.protocol.errors import ConfigurationError

SECRET_VARIABLES = (
    *("KDCUBE_SECRETS_DIR", "KDCUBE_SECRETS_MAX_AGE_SEC", "KDCUBE_SECRETS_STALE_SEC"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)
"""All that ``SecretSettings`` reads."""

AWS_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE"),
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED"),
)
"""What the library of AWS looks at by itself, to find out who asks."""

_WITHHELD = frozenset(
    {
        *("REDIS_URL", "DATABASE_URL", "POSTGRES_PASSWORD", "KDCUBE_SESSION_SECRET"),
        *("OIDC_CLIENT_SECRET", "PROXYLOGIN_ENCRYPTION_KEYS", "GIT_HTTP_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "ECS_AGENT_URI"),
    }
)
"""Services alone hold the credentials of the stores and of themselves, and nobody but they signs people in."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_KEY = re.compile(r"[^#\x00-\x1f\x7f]{1,256}")
_NAME_WORDS = "1 to 128 letters, digits and _, not beginning with a digit"
FORMS = "file:NAME, env:NAME, sm:NAME or ssm:NAME, each with #KEY for a member of a JSON object"


class Vault(StrEnum):
    """Where values of secrets are."""

    FILE = "file"
    """Files in KDCUBE_SECRETS_DIR."""
    ENV = "env"
    """The environment of the service."""
    SECRETS_MANAGER = "sm"
    PARAMETER_STORE = "ssm"


NAMES = {
    Vault.FILE: re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"),
    Vault.ENV: _NAME,
    Vault.SECRETS_MANAGER: re.compile(
        r"(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:)?[A-Za-z0-9/_+=.@-]{1,512}"
    ),
    Vault.PARAMETER_STORE: re.compile(r"(arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter)?[A-Za-z0-9/_.-]{1,1011}"),
}
"""What a vault may call a secret, in references of bundles."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a value is. Without a ``vault`` it is a plain name: the file of that name, else the variable."""

    name: str
    vault: Vault | None = None
    key: str | None = None
    """The member of the JSON object that the vault holds under ``name``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, whose message does not repeat ``text``: it may be a value in the wrong place."""
        scheme, colon, rest = text.partition(":")
        if not colon:
            if not _NAME.fullmatch(text):
                raise ValueError(f"must be a name ({_NAME_WORDS}), or a reference: {FORMS}")
            return cls(_granted(text))
        try:
            vault = Vault(scheme)
        except ValueError:
            raise ValueError(f"must be a reference: {FORMS}") from None
        name, sharp, key = rest.partition("#")
        if not NAMES[vault].fullmatch(name):
            raise ValueError(f"names nothing that {vault}: can hold; give {FORMS}")
        if sharp and not _KEY.fullmatch(key):
            raise ValueError("must name a member of a JSON object behind #, of 1 to 256 characters")
        return cls(_granted(name) if vault is Vault.ENV else name, vault, key if sharp else None)

    def __str__(self) -> str:
        vault = f"{self.vault}:" if self.vault else ""
        return f"{vault}{self.name}" + (f"#{self.key}" if self.key is not None else "")


def _granted(name: str) -> str:
    if name in _WITHHELD:
        raise ValueError(f"names {name}, which no bundle is given")
    return name


def _checked(text: str) -> str:
    SecretReference.parse(text)
    return text


SecretText = Annotated[str, AfterValidator(_checked)]
"""A field that holds a reference, or a plain name."""


def check_granted(granted: object) -> None:
    """What an entry's ``secrets`` may be: a list of names, or an object of references by name. Raises ValueError, with
    the place and without what stands there.
    """
    match granted:
        case list() | tuple():
            for place, name in enumerate(granted):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                if not isinstance(name, str) or ":" in name:
                    raise ValueError(f"secrets.{place} must be a name ({_NAME_WORDS}); references go into an object")
                _check_at(str(place), name)
        case dict():
            for name, reference in granted.items():  # pyright: ignore[reportUnknownVariableType]
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise ValueError(f"secrets has a name that is none: give {_NAME_WORDS}")
                if not isinstance(reference, str) or ":" not in reference:
                    raise ValueError(f"secrets.{name} must be a reference, not the secret itself: {FORMS}")
                _check_at(name, reference)
        case _:
            raise ValueError("secrets must be a list of names, or an object of references by name")


def _check_at(place: str, text: str) -> None:
    try:
        SecretReference.parse(text)
    except ValueError as error:
        raise ValueError(f"secrets.{place} {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSettings:
    """Where a service finds secrets, and for how long it believes what it has read."""

    folder: Path | None = None
    """KDCUBE_SECRETS_DIR: one file for each secret, called by its name."""
    max_age_s: float = 300.0
    """KDCUBE_SECRETS_MAX_AGE_SEC: what was read in AWS is read again after that."""
    stale_s: float = 3_600.0
    """KDCUBE_SECRETS_STALE_SEC: so much longer it is used when the vault cannot be asked."""
    region: str | None = None
    endpoint: str | None = None
    """AWS_ENDPOINT_URL, of an emulator or a private endpoint."""
    variable: Callable[[str], SecretStr | None] = field(default=lambda _: None, repr=False)
    """The value of a variable of this service."""

    @classmethod
    def read(cls, environment: Environment, references: Iterable[SecretReference] = ()) -> Self:
        """``references``: those that are known at the start. Raises ConfigurationError."""
        ask_for_credentials(environment)
        for reference in references:
            if reference.vault in (None, Vault.ENV):
                environment.secret(reference.name)
        region, default_region = environment.optional("AWS_REGION"), environment.optional("AWS_DEFAULT_REGION")
        folder = environment.path("KDCUBE_SECRETS_DIR")
        if folder is not None and not folder.is_dir():
            raise ConfigurationError("KDCUBE_SECRETS_DIR", f"is {folder}, which is no folder")
        return cls(
            folder=folder and folder.absolute(),
            max_age_s=environment.seconds("KDCUBE_SECRETS_MAX_AGE_SEC", 300.0, minimum=1, maximum=86_400),
            stale_s=environment.seconds("KDCUBE_SECRETS_STALE_SEC", 3_600.0, minimum=0, maximum=604_800),
            region=region or default_region,
            endpoint=environment.optional("AWS_ENDPOINT_URL"),
            variable=environment.secret,
        )


def ask_for_credentials(environment: Environment) -> None:
    """The library of AWS reads these itself, when it is first needed: here they only count as read."""
    environment.secret("AWS_ACCESS_KEY_ID")
    environment.secret("AWS_SECRET_ACCESS_KEY")
    environment.secret("AWS_SESSION_TOKEN")
    environment.optional("AWS_PROFILE")
    environment.optional("AWS_CONFIG_FILE")
    environment.optional("AWS_SHARED_CREDENTIALS_FILE")
    environment.optional("AWS_CA_BUNDLE")
    environment.optional("AWS_EC2_METADATA_DISABLED")

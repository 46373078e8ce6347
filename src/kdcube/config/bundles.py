"""AGENTIC_BUNDLES_JSON: the bundles that are served, and under which limits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from kdcube.config.environment import Environment, Number, Whole, read_document
from kdcube.config.git import GitAddress, check_git_ref, check_git_subdir
from kdcube.config.secrets import SecretReference, SecretText, Vault, check_granted
from kdcube.protocol.errors import ConfigurationError, InvalidInput
from kdcube.protocol.ids import check_bundle_id
from kdcube.protocol.turns import UserType

VARIABLE = "AGENTIC_BUNDLES_JSON"
FILE = "bundles.yaml"

SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


@lru_cache(maxsize=1_024)
def _parsed(reference: str) -> SecretReference:
    return SecretReference.parse(reference)  # asked for by every turn


class BundleEntry(BaseModel):
    """One bundle. ``repo``, ``ref`` and ``subdir`` are other spellings of the git fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    id: str
    name: str | None = None
    description: str | None = None
    path: str | None = None
    """The folder of its code; relative to AGENTIC_BUNDLES_ROOT. With it, nothing is fetched from ``git_url``."""
    module: str | None = None
    """What to import from its folder; None leaves it to the folder."""
    singleton: bool = False
    """Kept for installations that have it; a bundle's module is imported once per process here."""
    max_attempts: Whole = Field(default=1, ge=1, le=10)
    """Above 1 the bundle declares that running a turn again does no harm."""
    secrets: tuple[SecretName, ...] | dict[SecretName, str] = ()
    """What ``turn.secret`` may give to it: names, each of a file in KDCUBE_SECRETS_DIR or else of a variable of proc,
    or references by name (``sm:acme/support#model_key``).
    """
    config: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue], repr=False)
    """What ``turn.config`` is."""
    idle_limit_s: Number = Field(default=300.0, gt=0, le=86_400)
    """A turn that emits nothing for that long is ended."""
    wall_limit_s: Number = Field(default=1_800.0, gt=0, le=86_400)
    """A turn that takes longer is ended."""
    concurrency: Whole | None = Field(default=None, ge=1, le=1_000)
    """Turns at once per process of the bundle; None: as many as proc has slots."""
    memory_limit_mb: Whole | None = Field(default=None, ge=128, le=16_777_216)
    """MiB that one process of the bundle may hold, with all that it starts; None: 2,048, or half of the memory if that
    is less. A host alone takes about 40."""
    cpu_limit: Whole | None = Field(default=None, ge=1, le=1_024)
    """Cores on which one process of the bundle may run, with all that it starts; None: all of them."""
    process_limit: Whole = Field(default=1_024, ge=32, le=100_000)
    """Processes and threads that one process of the bundle may have, with all that it starts."""
    open_files_limit: Whole = Field(default=4_096, ge=64, le=1_048_576)
    """Files and sockets that each process may have open."""
    file_size_limit_mb: Whole | None = Field(default=None, ge=1, le=16_777_216)
    """How large each file may be that it writes; None: as large as ``temp_limit_mb``."""
    temp_limit_mb: Whole = Field(default=2_048, ge=1, le=16_777_216)
    """What the private folder of one process of the bundle may hold, with files that are deleted but open."""
    required_user_type: UserType | None = None
    """The least class of users that may use it; None: everybody."""
    operation_timeout_s: Number = Field(default=60.0, gt=0, le=600)
    """An operation that takes longer is stopped."""
    operation_concurrency: Whole | None = Field(default=None, ge=1, le=10_000)
    """Operations of the bundle at once in one proc; None: as many as proc takes on in all."""
    git_url: str | None = Field(default=None, validation_alias=AliasChoices("git_url", "repo"), repr=False)
    """Where its code is fetched from when there is no ``path``."""
    git_ref: str | None = Field(default=None, validation_alias=AliasChoices("git_ref", "ref"))
    """A branch, tag or commit; None: the branch that the repository calls its own."""
    git_subdir: str | None = Field(default=None, validation_alias=AliasChoices("git_subdir", "subdir"))
    """The bundle's folder within the repository; None: its root."""
    git_poll_s: Number | None = Field(default=None, ge=10, le=86_400)
    """So often it is looked whether ``git_ref`` names another commit, which is released then; None: never."""
    webhook_secret: SecretText | None = None
    """The secret by which its repository signs pushes, which ingress looks up; None: none are taken."""
    git_token: SecretText | None = None
    """The secret that signs in at its repository by https; None: GIT_HTTP_TOKEN."""
    git_ssh_key: SecretText | None = None
    """The secret that is the private key for its repository by ssh; None: the file GIT_SSH_KEY_PATH."""

    @property
    def fetched(self) -> bool:
        """Whether its code comes from git."""
        return self.path is None and self.git_url is not None

    @field_validator("secrets", mode="before")
    @classmethod
    def _references(cls, given: Any) -> Any:
        check_granted(given)
        return given

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            check_bundle_id("id", self.id)
        except InvalidInput as error:
            raise ValueError(error.message) from None
        if self.path is None and self.git_url is None:
            raise ValueError("give path or git_url")
        if self.path is not None and self.webhook_secret is not None:
            raise ValueError("webhook_secret is for bundles that are fetched by git_url; remove it, or path")
        if self.path is None and self.git_url is not None:
            GitAddress.parse(self.git_url)
            if self.git_ref is not None:
                check_git_ref(self.git_ref)
            if self.git_subdir is not None:
                check_git_subdir(self.git_subdir)
        elif self.git_poll_s is not None:
            raise ValueError("git_poll_s needs git_url, and no path")
        if self.idle_limit_s > self.wall_limit_s:
            raise ValueError("idle_limit_s is above wall_limit_s, so it could never be reached")
        if self.file_size_limit_mb is not None and self.file_size_limit_mb > self.temp_limit_mb:
            raise ValueError("file_size_limit_mb is above temp_limit_mb, so it could never be reached")
        return self

    @property
    def secret_references(self) -> dict[str, SecretReference]:
        """By the names under which the bundle asks."""
        pairs = self.secrets.items() if isinstance(self.secrets, dict) else zip(self.secrets, self.secrets, strict=True)
        return {name: _parsed(reference) for name, reference in pairs}


class BundleRegistry(BaseModel):
    """All bundles by id. A turn that names none goes to ``default_bundle_id``; a single bundle is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_bundle_id: str | None = None
    bundles: dict[str, BundleEntry] = Field(default_factory=dict[str, BundleEntry])

    @model_validator(mode="before")
    @classmethod
    def _named_by_key(cls, given: Any) -> Any:
        """``id`` may be left out of an entry, and the default of a single bundle."""
        if not isinstance(given, dict):
            return given
        registry = dict(cast("dict[str, Any]", given))
        entries = registry.get("bundles")
        if isinstance(entries, dict):
            bundles = cast("dict[str, Any]", entries)
            registry["bundles"] = {
                key: {"id": key, **cast("dict[str, Any]", entry)} if isinstance(entry, dict) else entry
                for key, entry in bundles.items()
            }
            if len(bundles) == 1 and registry.get("default_bundle_id") is None:
                registry["default_bundle_id"] = next(iter(bundles))
        return registry

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, entry in self.bundles.items():
            if entry.id != key:
                raise ValueError(f"bundles.{key}.id is {entry.id!r}; give the same as its key")
        if self.default_bundle_id is not None and self.default_bundle_id not in self.bundles:
            raise ValueError(f"default_bundle_id {self.default_bundle_id!r} is not among the bundles")
        return self

    @property
    def fetched(self) -> tuple[GitAddress, ...]:
        """Where bundles without a ``path`` come from."""
        entries = self.bundles.values()
        return tuple(GitAddress.parse(entry.git_url or "") for entry in entries if entry.fetched)

    @property
    def own_keys(self) -> frozenset[str]:
        """URLs of repositories for which a bundle names the secret that is its key."""
        return frozenset(entry.git_url for entry in self.bundles.values() if entry.git_url and entry.git_ssh_key)

    @property
    def secret_references(self) -> frozenset[SecretReference]:
        """Of every secret that some bundle is granted, or that gets its code."""
        of_code = (text for entry in self.bundles.values() for text in (entry.git_token, entry.git_ssh_key) if text)
        granted = (reference for entry in self.bundles.values() for reference in entry.secret_references.values())
        return frozenset((*granted, *map(SecretReference.parse, of_code)))

    @property
    def secret_variables(self) -> frozenset[str]:
        """The variables of proc that may hold one of them."""
        return frozenset(of.name for of in self.secret_references if of.vault in (None, Vault.ENV))

    @property
    def webhook_secrets(self) -> frozenset[SecretReference]:
        """Those by which repositories sign pushes."""
        texts = (entry.webhook_secret for entry in self.bundles.values())
        return frozenset(SecretReference.parse(text) for text in texts if text is not None)

    @property
    def webhook_variables(self) -> frozenset[str]:
        """The variables of ingress that may hold one of them."""
        return frozenset(of.name for of in self.webhook_secrets if of.vault in (None, Vault.ENV))


def read_bundles(environment: Environment) -> BundleRegistry:
    """AGENTIC_BUNDLES_JSON, inline or the path of a file; without it the file FILE in the root, if there is one, else
    none. Paths are made absolute by the root.
    """
    root = environment.path("AGENTIC_BUNDLES_ROOT")
    registry = environment.document(VARIABLE, BundleRegistry, or_file=True)
    if registry is None and root is not None and (root / FILE).is_file():
        registry = read_document("AGENTIC_BUNDLES_ROOT", BundleRegistry, root / FILE)
    registry = registry or BundleRegistry()
    placed = {key: _placed(entry, root) for key, entry in registry.bundles.items()}
    return registry.model_copy(update={"bundles": placed})


def _placed(entry: BundleEntry, root: Path | None) -> BundleEntry:
    if entry.path is None or Path(entry.path).is_absolute():
        return entry
    if root is None:
        raise ConfigurationError(
            VARIABLE, f"bundles.{entry.id}.path is {entry.path!r}; make it absolute, or set AGENTIC_BUNDLES_ROOT"
        )
    return entry.model_copy(update={"path": str(root.absolute() / entry.path)})

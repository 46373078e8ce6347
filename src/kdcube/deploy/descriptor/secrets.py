"""The secrets of a deployment, each by a reference."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from kdcube.config.bundles import SecretName
from kdcube.deploy.descriptor.parts import Part
from kdcube.deploy.descriptor.references import Reference, ReferenceText


class Secrets(Part):
    """Where each one is: ``file:PATH`` (from the folder of this file on), ``env:NAME`` (of whoever deploys),
    ``sm:NAME`` (Secrets Manager) or ``ssm:NAME`` (Parameter Store)."""

    session: ReferenceText | None = None
    """Signs anonymous sessions: 32 characters at least. Required."""
    postgres_password: ReferenceText | None = None
    """Of the user of PostgreSQL. Required, but for ``managed``, which makes one and rotates it."""
    valkey_password: ReferenceText | None = None
    """Of the user of Valkey. Required for a container."""
    metrics_password: ReferenceText | None = None
    """Of ``data.valkey.metrics_user``."""
    encryption_keys: ReferenceText | None = None
    """Seal logins: keys of 32 bytes in base64, separated by commas, the newest first. Required for proxylogin."""
    oidc_client_secret: ReferenceText | None = None
    """Of the first of ``auth.client_ids``; without one, PKCE alone protects it."""
    tokens: ReferenceText | None = None
    """The file of tokens. Required for ``auth: simple``."""
    git_token: ReferenceText | None = None
    """For bundles by https."""
    git_ssh_key: ReferenceText | None = None
    """For bundles by ssh: a private key without a passphrase."""
    git_known_hosts: ReferenceText | None = None
    """For bundles by ssh: the servers' keys, as ``ssh-keyscan`` prints them."""
    package_index: ReferenceText | None = None
    """UV_DEFAULT_INDEX for bundles' packages, where it holds credentials."""
    bundles: dict[SecretName, ReferenceText] = Field(default_factory=dict[str, Reference], max_length=500)
    """What entries of bundles are granted by name (``secrets``), and keys by which repositories sign pushes."""

    @property
    def given(self) -> Mapping[str, Reference]:
        """By their place, as in ``session`` and ``bundles.MODEL_KEY``."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name != "bundles"}
        granted = {f"bundles.{name}": reference for name, reference in self.bundles.items()}
        return {name: reference for name, reference in (named | granted).items() if reference is not None}

"""Puts the vaults together, as a service's settings say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from kdcube.config.secrets import SecretSettings, Vault
from kdcube.secrets.aws import Aws
from kdcube.secrets.local import EnvironmentVault, FolderVault, NamedVault
from kdcube.secrets.secrets import Secrets


@asynccontextmanager
async def open_secrets(settings: SecretSettings) -> AsyncGenerator[Secrets]:
    """Asks nobody yet: the first ``get`` of a reference does."""
    aws = Aws(settings)
    secrets = Secrets(
        {
            None: NamedVault(settings.folder, settings.variable),
            Vault.FILE: FolderVault(settings.folder),
            Vault.ENV: EnvironmentVault(settings.variable),
            Vault.SECRETS_MANAGER: aws.vault(Vault.SECRETS_MANAGER),
            Vault.PARAMETER_STORE: aws.vault(Vault.PARAMETER_STORE),
        },
        stale_s=settings.stale_s,
    )
    try:
        yield secrets
    finally:
        await secrets.close()

"""What signs in at a bundle's repository: its own secrets, where its entry names some, else the settings of proc."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitSettings
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.secrets.secrets import Secrets
from kdcube.secrets.vault import SecretUnreadable

_PLAIN = re.compile(r"[!-~]+")


class GitCredentials:
    """Made by ``open_git_credentials``."""

    def __init__(self, secrets: Secrets, folder: Path) -> None:
        self._secrets = secrets
        self._folder = folder

    async def of(self, entry: BundleEntry, settings: GitSettings) -> GitSettings:
        """``settings`` with what ``entry`` has of its own, as it is now. Raises SourceError, without values."""
        try:
            if entry.git_token is not None:
                token = await self._secrets.get(entry.git_token)
                if not _PLAIN.fullmatch(token):
                    raise SourceError(
                        f"the secret {entry.git_token} holds a blank or a line end, so it is no git_token"
                    )
                settings = replace(settings, http_token=SecretStr(token))
            if entry.git_ssh_key is not None:
                key = await self._secrets.get(entry.git_ssh_key)
                settings = replace(settings, ssh_key=self._kept(key))
        except SecretUnreadable as error:
            raise SourceError(str(error)) from None
        return settings

    def _kept(self, key: str) -> Path:
        """ssh takes keys from files alone: one that its owner reads, in a folder that goes away with proc."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / hashlib.sha256(key.encode()).hexdigest()[:20]
        if not file.exists():
            written = file.with_suffix(".new")
            written.unlink(missing_ok=True)
            fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as opened:
                opened.write(key.rstrip("\n") + "\n")
            written.rename(file)
        return file


@contextmanager
def open_git_credentials(secrets: Secrets, folder: Path) -> Generator[GitCredentials]:
    """``folder`` is made with the first key, private, and goes away; what a killed process left there goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield GitCredentials(secrets, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Vaults of this machine: a folder with one file for each secret, and the environment of the service."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from kdcube.config.secrets import SecretReference, Vault
from kdcube.secrets.vault import MAX_BYTES, SecretUnreadable, Unset

FILE_KEEPS_S = 5.0
"""A file that was replaced counts after that."""


class FolderVault:
    """Files as container engines mount them. What a link leads to is read: that is how they are replaced at once."""

    keeps_s: float | None = FILE_KEEPS_S

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    async def read(self, reference: SecretReference) -> str:
        return await asyncio.to_thread(self._read, reference)

    def close(self) -> None:
        pass

    def _read(self, reference: SecretReference) -> str:
        if self._folder is None:
            raise SecretUnreadable(reference, "KDCUBE_SECRETS_DIR is not set")
        try:
            # Not to be held up by a pipe; what is no file is refused below.
            fd = os.open(self._folder / reference.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SecretUnreadable(reference, "it is no file")
                with os.fdopen(fd, "rb", closefd=False) as file:
                    content = file.read(MAX_BYTES + 1)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise SecretUnreadable(reference, "KDCUBE_SECRETS_DIR has no such file") from None
        except PermissionError:
            raise SecretUnreadable(reference, "this service may not read the file") from None
        except OSError as error:
            raise SecretUnreadable(reference, error.strerror or "it cannot be opened", away=True) from None
        if len(content) > MAX_BYTES:
            raise SecretUnreadable(reference, f"it is larger than {MAX_BYTES} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise SecretUnreadable(reference, "it is not UTF-8 text") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise SecretUnreadable(reference, "the file is empty")
        return text


class EnvironmentVault:
    """Variables of this service. They never change while it runs."""

    keeps_s: float | None = None

    def __init__(self, variable: Callable[[str], SecretStr | None]) -> None:
        self._variable = variable

    async def read(self, reference: SecretReference) -> str:
        value = self._variable(reference.name)
        if value is None:
            raise SecretUnreadable(reference, "the variable is not set")
        return value.get_secret_value()

    def close(self) -> None:
        pass


class NamedVault:
    """Plain names: the file of that name, else the variable."""

    keeps_s: float | None = FILE_KEEPS_S

    def __init__(self, folder: Path | None, variable: Callable[[str], SecretStr | None]) -> None:
        self._folder = folder
        self._files = FolderVault(folder)
        self._variables = EnvironmentVault(variable)
        if folder is None:
            self.keeps_s = None

    async def read(self, reference: SecretReference) -> str:
        file = SecretReference(reference.name, Vault.FILE)
        if self._folder is not None and await asyncio.to_thread((self._folder / reference.name).exists):
            try:
                return await self._files.read(file)
            except SecretUnreadable as error:
                raise SecretUnreadable(reference, error.reason, away=error.away) from None
        try:
            return await self._variables.read(reference)
        except SecretUnreadable:
            where = (
                "neither a file of that name nor the variable is there" if self._folder else "the variable is not set"
            )
            raise Unset(reference, where) from None

    def close(self) -> None:
        pass

"""Values of a descriptor's references, as whoever deploys may read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdcube.config.secrets import SecretReference, SecretSettings, Vault
from kdcube.deploy.descriptor.references import Reference
from kdcube.protocol.errors import KDCubeError
from kdcube.secrets.opening import open_secrets
from kdcube.secrets.vault import SecretUnreadable

MAX_BYTES = 65_536


class NoSecret(KDCubeError):
    """A secret of the deployment cannot be read."""


def read_references(
    references: Iterable[tuple[str, Reference]], folder: Path, settings: SecretSettings
) -> Mapping[Reference, str]:
    """Each value, less one line end at its end. ``references``: with their places in the descriptor, for errors;
    ``folder``: where paths begin. Raises NoSecret, which names place and reference, and nothing of a value.
    """
    return asyncio.run(_read(list(references), folder, settings))


async def _read(
    references: list[tuple[str, Reference]], folder: Path, settings: SecretSettings
) -> Mapping[Reference, str]:
    found: dict[Reference, str] = {}
    async with open_secrets(settings) as secrets:
        for place, reference in references:
            if reference in found:
                continue
            if reference.vault is Vault.FILE:
                value = await asyncio.to_thread(_file, place, folder / reference.name)
            elif reference.vault is Vault.ENV:
                given = settings.variable(reference.name)
                if given is None:
                    raise NoSecret(f"{place}: {reference} cannot be read: the variable is not set")
                value = given.get_secret_value()
            else:
                try:
                    value = await secrets.get(SecretReference(reference.name, reference.vault, reference.key))
                except SecretUnreadable as error:
                    raise NoSecret(f"{place}: {error.reference} cannot be read: {error.reason}") from None
            value = value.removesuffix("\n").removesuffix("\r")
            if not value.strip():
                raise NoSecret(f"{place}: {reference} is empty")
            found[reference] = value
    return found


def _file(place: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise NoSecret(f"{place}: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise NoSecret(f"{place}: {path} is not UTF-8") from None
    if len(content) > MAX_BYTES:
        raise NoSecret(f"{place}: {path} is larger than {MAX_BYTES} bytes")
    return text

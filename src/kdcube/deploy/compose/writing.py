"""The folder of a deployment: what was rendered, and beside it the secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kdcube.config.secrets import SecretSettings
from kdcube.deploy.certificates import expiry_of, names_of, self_signed
from kdcube.deploy.compose.reading import read_references
from kdcube.deploy.descriptor.bundles import Mounted
from kdcube.deploy.descriptor.data import PostgresGiven, ValkeyGiven
from kdcube.deploy.descriptor.edge import SelfSigned
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.render.compose.facts import ComposeFacts
from kdcube.deploy.render.compose.rendering import COMPOSE_FILE, SECRETS
from kdcube.deploy.render.compose.secret_files import CERTIFICATE, KEY, granted_files, secret_files
from kdcube.protocol.errors import InvalidInput, KDCubeError

GRANTED = "granted"
_RENEW_BEFORE = timedelta(days=30)
_OURS = ("localhost", "127.0.0.1", "::1")
_TEXT_MODE, _SECRET_MODE = 0o644, 0o444
"""A secret is mounted into containers that do not run as its owner; the folder that it is in, on the machine, is its
owner's alone."""


class CannotWrite(KDCubeError):
    """The folder of the deployment cannot be written."""


def check_mounts(descriptor: Descriptor, facts: ComposeFacts) -> None:
    """That what is mounted is there: Docker would make an empty folder of each that is not. Raises InvalidInput."""
    source = descriptor.bundles.source
    if isinstance(source, Mounted) and not Path(facts.path(source.folder)).is_dir():
        raise InvalidInput("file", f"bundles.source.folder is {facts.path(source.folder)}, which is no folder")
    for name, store in (("valkey", descriptor.data.valkey), ("postgres", descriptor.data.postgres)):
        given = store.authorities if isinstance(store, ValkeyGiven | PostgresGiven) else None
        if given is not None and not Path(facts.path(given)).is_file():
            raise InvalidInput("file", f"data.{name}.authorities is {facts.path(given)}, which is no file")


def write_rendered(files: Mapping[str, str], folder: Path) -> None:
    """Those that are of another rendering and not of this one are removed. Raises CannotWrite, InvalidInput."""
    if folder.exists() and any(folder.iterdir()) and not (folder / COMPOSE_FILE).is_file():
        raise InvalidInput("out", f"{folder} is there already and was not rendered by this: name a new folder")
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if not _holds(folder / path, text):  # a file that is mounted stays the same one
                _replace(folder / path, text, _TEXT_MODE)
        for stale in folder.glob(".env.*"):
            if stale.name not in files:
                stale.unlink()
    except OSError as error:
        raise CannotWrite(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def write_secrets(
    descriptor: Descriptor, folder: Path, settings: SecretSettings, out: Path, *, now: datetime | None = None
) -> frozenset[str]:
    """Reads the references of ``descriptor``, which begin from ``folder``, and writes the files below ``out/secrets``.

    The names of those that have changed; a name of another rendering is removed. Raises NoSecret, CannotWrite.
    """
    granted = granted_files(descriptor)
    known = secret_files(descriptor)
    places = {reference: f"secrets.{place}" for place, reference in descriptor.secrets.given.items()}
    needed = [reference for file in known for reference in file.needs] + list(granted.values())
    values = read_references([(places.get(each, "tls"), each) for each in needed], folder, settings)
    texts = {file.name: file.text(*(values[each] for each in file.needs)) for file in known}
    texts |= {f"{GRANTED}/{path}": values[reference] for path, reference in granted.items()}
    place = out / SECRETS
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
        texts |= _self_signed(descriptor, place, now or datetime.now(UTC))
        changed = {name for name, text in texts.items() if _write_secret(place, name, text)}
        gone = [each for each in place.rglob("*") if each.is_file() and str(each.relative_to(place)) not in texts]
        for each in gone:
            each.unlink()
    except OSError as error:
        raise CannotWrite(f"{error.filename or place} cannot be written: {error.strerror}") from error
    return frozenset(changed)


def _self_signed(descriptor: Descriptor, place: Path, now: datetime) -> dict[str, str]:
    """The certificate that is there, or a new one when it is for other names, or ends soon."""
    if not isinstance(descriptor.tls, SelfSigned):
        return {}
    names = descriptor.edge.hosts or _OURS
    certificate, key = place / CERTIFICATE, place / KEY
    if certificate.is_file() and key.is_file():
        there = certificate.read_bytes()
        if set(names_of(there)) == set(names) and expiry_of(there) > now + _RENEW_BEFORE:
            return {CERTIFICATE: there.decode().removesuffix("\n"), KEY: key.read_text().removesuffix("\n")}
    made = self_signed(names, now=now)
    return {CERTIFICATE: made.certificate.decode().removesuffix("\n"), KEY: made.key.decode().removesuffix("\n")}


def _write_secret(place: Path, name: str, text: str) -> bool:
    """With one line end: of a key it is a part, and nobody else minds it."""
    path = place / name
    for folder in reversed(path.relative_to(place).parents[:-1]):
        (place / folder).mkdir(mode=0o755, exist_ok=True)
        (place / folder).chmod(0o755)
    content = text + "\n"
    if _holds(path, content):
        path.chmod(_SECRET_MODE)
        return False
    _replace(path, content, _SECRET_MODE)
    return True


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _replace(path: Path, text: str, mode: int) -> None:
    """In one step, so that nobody reads half of it."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(mode)
    draft.replace(path)

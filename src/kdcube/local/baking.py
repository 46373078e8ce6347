"""Writes the build context of an image with its bundles inside: their files at the pinned commits, and the texts."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitAddress, GitSettings
from kdcube.config.secrets import SecretSettings
from kdcube.deploy.image_release import ImageRelease
from kdcube.deploy.render.image import Baked, render_context
from kdcube.proc.bundles.content import content_version
from kdcube.proc.bundles.sources.credentials import GitCredentials
from kdcube.proc.bundles.sources.repository import Repository
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.protocol.errors import ConfigurationError, InvalidInput, KDCubeError
from kdcube.secrets.opening import open_secrets

_MARK = "release.json"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".git")
_PRIVATE_KEY = b"-----BEGIN "
_HEAD_BYTES = 65_536


class CannotBake(KDCubeError):
    """The context cannot be written."""


def bake(release: ImageRelease, out: Path, store: Path, git: GitSettings, secrets: SecretSettings) -> list[Baked]:
    """Writes ``out``, which appears whole or not at all; one that was written by this before is replaced.

    ``store`` keeps what was fetched, for the next time. Raises CannotBake, InvalidInput.
    """
    if out.exists() and not (out.is_dir() and ((out / _MARK).is_file() or not any(out.iterdir()))):
        raise InvalidInput("out", f"{out} is there already and was not written by this: name a new folder")
    entries = release.bundles.items
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as draft_name,
            tempfile.TemporaryDirectory(prefix="kdcube-keys-") as keys,
        ):
            draft = Path(draft_name, "context")
            signed_in = asyncio.run(_signed_in(entries, git, secrets, Path(keys)))
            baked = [_write(entry, draft / "bundles", store, signed_in[entry.id]) for entry in entries]
            for name, text in render_context(release, baked).items():
                (draft / name).write_text(text)
            if out.exists():
                out.rename(Path(draft_name, "before"))
            draft.rename(out)
    except (SourceError, ConfigurationError) as error:
        raise CannotBake(str(error)) from error
    except OSError as error:
        raise CannotBake(f"{error.filename or out} cannot be written: {error.strerror}") from error
    return baked


async def _signed_in(
    entries: Sequence[BundleEntry], git: GitSettings, secrets: SecretSettings, keys: Path
) -> dict[str, GitSettings]:
    """The settings for each bundle's repository, with the entry's own credentials."""
    async with open_secrets(secrets) as opened:
        credentials = GitCredentials(opened, keys)
        return {entry.id: await credentials.of(entry, git) for entry in entries}


def _write(entry: BundleEntry, root: Path, store: Path, git: GitSettings) -> Baked:
    address = GitAddress.parse(entry.git_url or "")
    git.check(address)
    repository = Repository(store, address, git, stopping=threading.Event())
    commit = repository.fetch(entry.git_ref)
    held = repository.hold(commit)
    if held is None:
        raise SourceError(f"commit {commit} was removed while it was wanted")
    checkout, let_go = held
    try:
        source = (checkout / (entry.git_subdir or ".")).resolve()
        if not source.is_dir() or not source.is_relative_to(checkout.resolve()):
            raise SourceError(f"commit {commit} has no folder {entry.git_subdir!r} (git_subdir)")
        place = root / Baked(entry, "").place
        _copy(source, place, entry)
        return Baked(entry, content_version(str(place), entry.module))
    finally:
        let_go()


def _copy(source: Path, place: Path, entry: BundleEntry) -> None:
    """As the commit has it, but for modes: what everybody may read, with folders that can be deleted here."""
    shutil.copytree(source, place, symlinks=True, ignore=_LEFT_OUT, copy_function=shutil.copy)
    for folder, folders, files in os.walk(place):
        Path(folder).chmod(0o755)
        for name in (*folders, *files):
            file = Path(folder, name)
            if file.is_symlink():
                if not file.resolve().is_relative_to(place.resolve()):
                    raise CannotBake(f"{entry.id}: the link {_shown(file, place)} leads out of the bundle's folder")
            elif file.is_file():
                _check(file, place, entry)
                file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)


def _check(file: Path, place: Path, entry: BundleEntry) -> None:
    """An image is copied and kept by many: what is plainly a secret does not go into it."""
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    private_key = any(line.startswith(_PRIVATE_KEY) and b"PRIVATE KEY-----" in line for line in head.splitlines())
    if private_key or file.name == ".env" or file.name == ".netrc":
        what = "a private key" if private_key else "a file of credentials"
        raise CannotBake(
            f"{entry.id}: {_shown(file, place)} is {what}, and an image keeps none: take it out of the repository, and "
            "grant it by reference under `secrets`"
        )


def _shown(file: Path, place: Path) -> str:
    return repr(str(file.relative_to(place))[:200])

"""``kdcube bundles bake``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import msgspec
from cyclopts import Parameter

from kdcube.config.environment import Environment, read_document
from kdcube.config.git import GitSettings
from kdcube.config.load import load
from kdcube.config.secrets import SecretSettings
from kdcube.deploy.image_release import ImageRelease
from kdcube.local.baking import bake as write_context
from kdcube.protocol.errors import ConfigurationError, InvalidInput


@dataclass(frozen=True, slots=True)
class BakeSettings:
    """What fetching needs of the environment."""

    store: Path
    git: GitSettings
    secrets: SecretSettings

    @classmethod
    def read(cls, environment: Environment) -> Self:
        home = environment.path("KDCUBE_HOME") or Path(".kdcube")
        return cls(home.absolute() / "git", GitSettings.read(environment, ()), SecretSettings.read(environment))


def bake(
    file: Path = Path("release.yaml"),
    /,
    *,
    out: Path = Path("baked"),
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write the Dockerfile and the build context of an image of proc that has its bundles inside.

    Parameters
    ----------
    file
        What it is made of: the platform's image by digest, bundles by commit, the UI.
    out
        The folder to write; one that was written before is replaced.
    json
        Print what was written as JSON.
    """
    if not file.is_file():
        raise InvalidInput(
            "file", f"{file} does not exist: name a release.yaml (docs/bundles.md, “Baked into an image”)"
        )
    try:
        release = read_document(str(file), ImageRelease, file)
    except ConfigurationError as error:
        raise InvalidInput("file", str(error)) from None
    settings = load(BakeSettings)
    baked = write_context(release, out.absolute(), settings.store, settings.git, settings.secrets)
    if json:
        facts = (out / "release.json").read_bytes()
        sys.stdout.buffer.write(msgspec.json.format(facts) + b"\n")
        return
    for bundle in baked:
        print(f"{bundle.entry.id}: commit {bundle.commit[:12]}, version {bundle.content}")
    print(f"wrote {out}/\n\n  docker build --tag kdcube-chat-proc:{release.release.replace('+', '_')} {out}")

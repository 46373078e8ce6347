"""Which bundles are served, and where their code comes from."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from kdcube.config.bundles import BundleRegistry
from kdcube.deploy.descriptor.parts import Flag, Folder, Part

ROOT = "/bundles"
"""In the containers: where mounted and baked bundles are, and what relative paths of entries begin from."""


class FromGit(Part):
    """Proc fetches them; each entry has a ``git_url``."""

    kind: Literal["git"]


class Mounted(Part):
    """A folder, mounted read-only at ``/bundles``. Entries name a ``path`` in it, or a ``git_url``."""

    kind: Literal["mounted"]
    folder: Folder = "bundles"
    """On compose, the folder of the machine; on ECS it is on ``storage.efs``."""


class Baked(Part):
    """They are in the image of proc, as ``kdcube bundles bake`` writes it; that image is named by its digest."""

    kind: Literal["baked"]


BundleSource: TypeAlias = Annotated[FromGit | Mounted | Baked, Field(discriminator="kind")]


class Bundles(Part):
    """What is served."""

    source: BundleSource = FromGit(kind="git")
    """Where code comes from. A text stands for ``kind`` alone."""
    registry: BundleRegistry = BundleRegistry()
    """The entries, as AGENTIC_BUNDLES_JSON has them. What is registered later goes before them."""
    force: Flag = False
    """Whether they take the place of all that are registered, at each start of proc."""

"""``python -m kdcube.proc.bundles.environments FOLDER``: builds what the bundles of AGENTIC_BUNDLES_JSON run in, for an
image. They are found there with KDCUBE_BAKED_ENVIRONMENTS, by a proc of the same Python, paths and version.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kdcube.config.bundles import BundleRegistry, read_bundles
from kdcube.config.environment import Environment
from kdcube.config.environments import EnvironmentSettings
from kdcube.config.load import load
from kdcube.proc.bundles.environments.environments import open_environments
from kdcube.proc.bundles.sources.source import SourceError, folder_code
from kdcube.protocol.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class _Settings:
    bundles: BundleRegistry
    environments: EnvironmentSettings

    @classmethod
    def read(cls, environment: Environment) -> Self:
        return cls(read_bundles(environment), EnvironmentSettings.read(environment))


def main() -> int:
    """0, 1 when one cannot be built, or 2 for bad input."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m kdcube.proc.bundles.environments FOLDER", file=sys.stderr)
        return 2
    try:
        settings = load(_Settings)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # also for bundles that name no packages
    return asyncio.run(_build(settings, folder))


async def _build(settings: _Settings, folder: Path) -> int:
    with open_environments(folder, settings.environments, quiet=True) as environments:
        for entry in settings.bundles.bundles.values():
            if entry.fetched:
                continue
            try:
                found = await environments.prepared(await folder_code(entry), entry)
            except SourceError as error:
                print(f"{entry.id}: {error}", file=sys.stderr)
                return 1
            found.release()
            print(f"{entry.id}: {found.digest[:12] or 'names no packages'}")
    shutil.rmtree(folder / "cache", ignore_errors=True)  # it would only make the image larger
    for place in (folder, folder / "built", folder / "resolutions"):
        if place.is_dir():
            place.chmod(0o755)  # whoever proc runs as is to read it
    return 0


if __name__ == "__main__":
    sys.exit(main())

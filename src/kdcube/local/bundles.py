"""The bundles that ``kdcube up`` serves: docs and echo, the user's registry, and the folders that it is given."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.local.bundle_check import Loaded, NotLoaded
from kdcube.protocol.errors import KDCubeError

_LOAD_LIMIT_S = 60.0


class BundleDoesNotLoad(KDCubeError):
    """A bundle's code cannot be loaded."""


async def assemble(registry: BundleRegistry, folders: Sequence[Path], docs: BundleEntry) -> BundleRegistry:
    """``registry`` with docs, echo and ``folders``. The default is the registry's own, else the first folder, else
    docs. Whatever has the id of one of ours takes its place.

    Raises BundleDoesNotLoad.
    """
    echo = str(resources.files("kdcube") / "echo")
    own = [await _check(folder) for folder in folders]
    if len({entry.id for entry in own}) < len(own):
        raise BundleDoesNotLoad(f"two of the bundles have the same id: {', '.join(entry.id for entry in own)}")
    bundles = {entry.id: entry for entry in (docs, BundleEntry(id="echo@1.0.0", path=echo), *own)}
    first = own[0].id if own else docs.id
    return BundleRegistry(
        default_bundle_id=registry.default_bundle_id or first, bundles={**bundles, **registry.bundles}
    )


async def _check(folder: Path) -> BundleEntry:
    """Loads the bundle in a process of its own, as nothing of it may enter ours, and gives its entry."""
    path = os.path.abspath(folder)  # noqa: PTH100, ASYNC240 - it only asks for the working directory
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "kdcube.local.bundle_check", path),
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _LOAD_LIMIT_S)
        found: Loaded | NotLoaded = msgspec.json.decode(output, type=Loaded | NotLoaded)
    except TimeoutError:
        found = NotLoaded(f"it takes more than {_LOAD_LIMIT_S:g} s")
    except msgspec.DecodeError:
        found = NotLoaded(f"its process ended with code {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if isinstance(found, NotLoaded):
        raise BundleDoesNotLoad(f"the bundle {folder} does not load: {found.reason}")
    return BundleEntry(id=found.id, path=path, max_attempts=found.max_attempts)

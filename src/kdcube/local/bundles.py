"""The bundles that ``kdcube up`` serves: docs and echo, the user's registry, and the folders that it is given."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.local.bundle_check import Found, Problem
from kdcube.proc.bundles.environments.environments import Environments
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.process import host_environment
from kdcube.proc.bundles.sources.source import Code
from kdcube.protocol.errors import KDCubeError

_LOAD_LIMIT_S = 60.0


class BundleDoesNotLoad(KDCubeError):
    """A bundle's code cannot be loaded."""


async def assemble(
    registry: BundleRegistry, folders: Sequence[Path], docs: BundleEntry, environments: Environments | None = None
) -> BundleRegistry:
    """``registry`` with docs, echo and ``folders``. The default is the registry's own, else the first folder, else
    docs. Whatever has the id of one of ours takes its place.

    Raises BundleDoesNotLoad.
    """
    echo = str(resources.files("kdcube") / "echo")
    own = [await _entry(folder, environments) for folder in folders]
    if len({entry.id for entry in own}) < len(own):
        raise BundleDoesNotLoad(f"two of the bundles have the same id: {', '.join(entry.id for entry in own)}")
    bundles = {entry.id: entry for entry in (docs, BundleEntry(id="echo@1.0.0", path=echo), *own)}
    first = own[0].id if own else docs.id
    return BundleRegistry(
        default_bundle_id=registry.default_bundle_id or first, bundles={**bundles, **registry.bundles}
    )


async def _entry(folder: Path, environments: Environments | None) -> BundleEntry:
    found = await check_bundle(folder, environments)
    if found.bundle is None:
        raise BundleDoesNotLoad(f"the bundle {folder} does not load: {found.problems[0]}")
    return BundleEntry(id=found.bundle.id, path=_absolute(folder), max_attempts=found.bundle.max_attempts)


async def check_bundle(
    folder: Path, environments: Environments | None = None, *, output: int = asyncio.subprocess.DEVNULL
) -> Found:
    """Loads the bundle in a process of its own, as nothing of it may enter ours, with all that a host gives it.

    ``environments``: where its environment is, or is built; None runs it with this Python. ``output``: the file
    descriptor that gets what it prints.
    """
    if environments is None:
        return await _checked(folder, sys.executable, output)
    entry = BundleEntry(id="checked", path=_absolute(folder))
    try:
        if not await environments.ready(entry):
            print(f"installing the packages of {folder}", file=sys.stderr, flush=True)
        interpreter = await environments.prepared(Code(_absolute(folder), ""), entry)
    except EnvironmentNotBuilt as error:
        what = f"its environment cannot be built: {error.reason}"
        return Found(None, [Problem(what, error.file and str(error.file), error.line or (error.file and 1))])
    try:
        return await _checked(folder, interpreter.path, output)
    finally:
        interpreter.release()


async def _checked(folder: Path, python: str, output: int) -> Found:
    with tempfile.TemporaryDirectory(prefix="kdcube-check-") as home:
        process = await asyncio.create_subprocess_exec(
            *(python, "-P", "-m", "kdcube.local.bundle_check", _absolute(folder)),
            env=host_environment(Path(home), python),
            cwd=home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _LOAD_LIMIT_S)
            return msgspec.json.decode(said, type=Found)
        except TimeoutError:
            slow = "what takes long belongs into the handler, not where the module is loaded"
            return Found(None, [Problem(f"it takes more than {_LOAD_LIMIT_S:g} s", remedy=slow)])
        except msgspec.DecodeError:
            return Found(None, [Problem(f"its process ended with code {process.returncode}")])
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _absolute(folder: Path) -> str:
    return os.path.abspath(folder)  # noqa: PTH100 - unlike Path.absolute it takes .. away

"""The bundles that ``kdcube up`` serves: docs and echo, the user's registry, and the folders that it is given."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import msgspec

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.local.bundle_check import Found, Problem
from kdcube.proc.bundles.environments.environments import Environments
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.host import HostLimits
from kdcube.proc.bundles.limits import Machine, ProcessLimits
from kdcube.proc.bundles.process import host_environment, kept
from kdcube.proc.bundles.sources.source import Code
from kdcube.protocol.errors import KDCubeError


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
    folder: Path,
    environments: Environments | None = None,
    *,
    module: str | None = None,
    output: int = asyncio.subprocess.DEVNULL,
) -> Found:
    """Loads the bundle as proc does: in a process of its own under a keeper, with all that a host is given, and what
    an entry without limits may take.

    ``environments``: where its environment is, or is built; None runs it with this Python. ``output``: the file
    descriptor that gets what it prints.
    """
    entry = BundleEntry(id="checked", path=_absolute(folder), module=module)
    if environments is None:
        return await _checked(entry, sys.executable, output)
    try:
        if not await environments.ready(entry):
            print(f"installing the packages of {folder}", file=sys.stderr, flush=True)
        interpreter = await environments.prepared(Code(_absolute(folder), ""), entry)
    except EnvironmentNotBuilt as error:
        what = f"its environment cannot be built: {error.reason}"
        return Found(None, [Problem(what, error.file and str(error.file), error.line or (error.file and 1))])
    try:
        return await _checked(entry, interpreter.path, output)
    finally:
        interpreter.release()


async def _checked(entry: BundleEntry, python: str, output: int) -> Found:
    limits = ProcessLimits.of(entry, Machine.here(), 0)
    program = [python, "-P", "-m", "kdcube.local.bundle_check", entry.path or "", *filter(None, [entry.module])]
    with tempfile.TemporaryDirectory(prefix="kdcube-check-") as home, _pipe() as (status, status_theirs):
        process = await asyncio.create_subprocess_exec(
            *kept(program, Path(home), limits, status_fd=status_theirs.fileno()),
            env=host_environment(Path(home), python),
            cwd=home,
            pass_fds=(status_theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
        status_theirs.close()
        try:
            said, _ = await asyncio.wait_for(process.communicate(), HostLimits().load_timeout_s)
            return msgspec.json.decode(said, type=Found)
        except TimeoutError:
            slow = "what takes long belongs into the handler, not where the module is loaded"
            return Found(None, [Problem(f"it takes more than {HostLimits().load_timeout_s:g} s", remedy=slow)])
        except msgspec.DecodeError:
            return Found(None, [_end(status.read().decode(errors="replace"))])
        finally:
            if process.returncode is None:
                process.terminate()  # the keeper: it ends the bundle's process first
                await process.wait()


def _end(status: str) -> Problem:
    """Why the process said nothing, by what its keeper tells."""
    for line in status.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "over":
                limit, _, figures = rest.partition(" ")
                return Problem(f"its process was ended while loading, over its {limit}: {figures}")
            case "failed":
                return Problem(f"its process does not start: {rest}")
            case "ended":
                return Problem(f"its process ended with code {rest}")
            case _:
                continue
    return Problem("its process was killed")


@contextmanager
def _pipe() -> Generator[tuple[BinaryIO, BinaryIO]]:
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as reader, os.fdopen(writes, "wb") as writer:
        yield reader, writer


def _absolute(folder: Path) -> str:
    return os.path.abspath(folder)  # noqa: PTH100 - unlike Path.absolute it takes .. away

"""Reloads bundles when their files change, for whoever writes one (``kdcube up --watch``).

It looks at times and sizes instead of being told by the kernel: that works on every mount (the kernel tells nothing of
shared folders of virtual machines or of network file systems), needs no dependency, and costs a fraction of a
millisecond for a usual folder. For a large one it looks less often, so that it never takes more than a twentieth of a
core.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import structlog

from kdcube.proc.bundles.content import bundle_files, own_folder
from kdcube.proc.bundles.host import BundleLoadError
from kdcube.proc.bundles.jobs import BundleUnavailable
from kdcube.proc.bundles.pool import HostPool

_log = structlog.get_logger("kdcube.bundle")

_LOOK_S = 0.2
_SETTLE_S = 0.05
"""Editors write in several steps, and save several files: it reloads when nothing has changed for so long."""
_LOOK_SHARE = 20

Stamp = tuple[tuple[str, int, int], ...]


async def reload_on_change(pool: HostPool) -> None:
    """Until it is cancelled. What does not load is logged, and the version before goes on."""
    watched: dict[str, tuple[Path, asyncio.Task[None]]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            roots = {
                bundle_id: own_folder(Path(entry.path or ""), entry.module)
                for bundle_id, entry in pool.folders().items()
            }
            for bundle_id, (root, task) in list(watched.items()):
                if roots.get(bundle_id) != root:
                    del watched[bundle_id]
                    task.cancel()
            for bundle_id in roots.keys() - watched.keys():
                root = roots[bundle_id]
                watched[bundle_id] = root, group.create_task(_watch(pool, bundle_id, root))
            await asyncio.sleep(_LOOK_S)


async def _watch(pool: HostPool, bundle_id: str, root: Path) -> None:
    seen = await asyncio.to_thread(_stamp, root)
    failed, pause_s = False, _LOOK_S
    while True:
        await asyncio.sleep(pause_s)
        began = time.monotonic()
        now = await asyncio.to_thread(_stamp, root)
        pause_s = max(_LOOK_S, _LOOK_SHARE * (time.monotonic() - began))
        if now == seen:
            continue
        while now != seen:
            seen = now
            await asyncio.sleep(_SETTLE_S)
            now = await asyncio.to_thread(_stamp, root)
        with suppress(BundleUnavailable):  # it was removed: this ends soon
            failed = await _reload(pool, bundle_id, began, failed)


async def _reload(pool: HostPool, bundle_id: str, began: float, failed: bool) -> bool:
    """Whether the files do not load. ``failed``: whether they did not the last time."""
    if await pool.is_current(bundle_id):  # touched, or changed back
        if failed:
            _log.info("bundle_as_before", bundle=bundle_id)
        return False
    try:
        version = await pool.reload(bundle_id)
    except BundleLoadError as error:
        _log.error("bundle_not_reloaded", bundle=bundle_id, reason=error.reason)
        return True
    _log.info("bundle_reloaded", bundle=bundle_id, version=version, seconds=round(time.monotonic() - began, 2))
    return False


def _stamp(root: Path) -> Stamp:
    try:
        stats = [(str(file), file.stat()) for file in bundle_files(root)]
    except OSError:  # a file went away meanwhile; the next look finds what is there
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)

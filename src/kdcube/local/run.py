"""One life of the system: up, watched, drained."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from kdcube.docs.indexing.place import Progress
from kdcube.local.bundle_talk import relay
from kdcube.local.docs import read_docs
from kdcube.local.down import sweep
from kdcube.local.stack import Stack
from kdcube.local.supervisor import Supervisor, open_supervisor


async def run(
    stack: Stack,
    report: Callable[[str], None],
    on_up: Callable[[], None],
    watch: Callable[[Progress], None],
    *,
    relays: bool,
) -> None:
    """Bring ``stack`` up, call ``on_up``, keep it running until a signal to stop, and drain it. A second one hurries.

    Meanwhile the documents are read, of which ``watch`` is told, and with ``relays`` what bundles say is reported.
    Raises KDCubeError when it cannot come up or cannot be
    kept up; what was started has been drained by then.
    """
    with stack.home.locked():
        sweep(stack.home, report)
        stack.home.clear_run()
        async with open_supervisor(stack.home, stack.url, report) as supervisor:
            work = asyncio.create_task(_work(stack, supervisor, on_up))
            wanted = asyncio.create_task(_stop_signal(supervisor, report))
            beside = [asyncio.create_task(read_docs(stack.docs, stack.home, report, watch))]
            if relays:
                beside.append(asyncio.create_task(relay(stack.home.logs, report)))
            try:
                await asyncio.wait({work, wanted}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (work, wanted, *beside):
                    task.cancel()
            await asyncio.wait({work, *beside})
            for task in (work, *beside):
                if not task.cancelled():
                    task.result()


async def _work(stack: Stack, supervisor: Supervisor, on_up: Callable[[], None]) -> None:
    await stack.bring_up(supervisor)
    on_up()
    await supervisor.failure()


async def _stop_signal(supervisor: Supervisor, report: Callable[[str], None]) -> None:
    """Return at the first signal; any later one hurries the drain."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, on_signal)
    await stop.wait()
    report("draining; once more ends it at once")

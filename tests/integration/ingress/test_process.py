"""The process: it serves on its port, drains at SIGTERM, and says in one line why it cannot start."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
from tests.integration.ingress.asking import sent

pytestmark = pytest.mark.anyio


async def test_sigterm_drains_streams_and_exits_with_zero(process: Any) -> None:
    headers = {"Authorization": "Bearer alice-token"}
    async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=20) as alice:
        await sent(alice)
        async with alice.stream("GET", "/chatbot/api/sse/stream?stream_id=s1") as stream:
            lines = stream.aiter_lines()
            assert "event: ready" in [await anext(lines) for _ in range(3)]
            process.child.send_signal(signal.SIGTERM)
            rest = [line async for line in lines]
    assert "event: server_shutdown" in rest
    assert await asyncio.to_thread(process.child.wait, 20) == 0
    assert "Traceback" not in process.log.read_text()


async def test_a_port_in_use_is_one_line_and_one(process: Any) -> None:
    import psutil

    environ = psutil.Process(process.child.pid).environ()
    second = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "kdcube.ingress"], env=environ, capture_output=True, text=True
    )
    assert second.returncode == 1
    assert second.stderr.startswith("kdcube-ingress: CHAT_APP_PORT: cannot listen on 127.0.0.1:")
    assert second.stderr.count("\n") == 1

"""Debian's Prometheus: a server of the test's own, and promtool."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.eventually import eventually

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.process import Program

SCRAPE_S = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Answers queries about what it has scraped."""

    def __init__(self, http: httpx.AsyncClient, targets: int) -> None:
        self._http = http
        self._targets = targets

    async def query(self, expression: str) -> list[Sample]:
        """What an instant query gives now. Those that are no number are left out, as a panel leaves them out."""
        response = await self._http.get("/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        samples = [Sample(entry["metric"], float(entry["value"][1])) for entry in result]
        return [sample for sample in samples if sample.value == sample.value]

    async def scraped_since(self, moment_s: float) -> None:
        """Waits until every target was scraped after ``moment_s``, by this machine's clock. Only asking tells."""

        async def scraped() -> bool:
            times = [sample.value for sample in await self.query("timestamp(up) and up == 1")]
            return len(times) == self._targets and min(times) > moment_s

        await eventually(scraped, f"every target was scraped; of them were before: {await self.query('up')}")


@asynccontextmanager
async def open_prometheus(folder: Path, jobs: Mapping[str, Sequence[str]]) -> AsyncGenerator[Prometheus]:
    """Scrapes the targets (``host:port``) of each job from now on, under the alert rules of this project."""
    config = folder / "prometheus.yml"
    scrapes = [{"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()]
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": f"{SCRAPE_S * 1000:g}ms", "scrape_timeout": f"{SCRAPE_S * 1000:g}ms"},
                "scrape_configs": scrapes,
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    program = Program(
        (
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        )
    )
    server = process.start(program, folder / "log")
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as http:

            async def ready() -> bool:
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    return (await http.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, "Prometheus is ready")
            yield Prometheus(http, sum(map(len, jobs.values())))
    finally:
        process.stop(server, signal.SIGTERM, grace_s=10)


def promtool(*arguments: str | Path) -> str:
    """What it printed; fails with that when promtool is not content."""
    done = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: run the tests by `make test`, or apt-get install prometheus")
    return found

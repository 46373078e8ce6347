"""The dashboard explains a slow system: a real one, under a real Prometheus, by the panels' own queries."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.chaos.proxy import Proxy
from tests.e2e.client import PREFIX, Client
from tests.e2e.conftest import ECHO, Connect, Stack, StackFactory
from tests.eventually import eventually
from tests.prometheus import Prometheus, Sample, open_prometheus

DASHBOARD = json.loads((Path(__file__).parents[2] / "observability" / "grafana.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}

SLOTS = 2
"""For turns of echo; proc has one more, which it keeps for the other bundle that was in use of late."""
RUN, WAIT = "How long turns run", "How long turns wait"
POSTGRES, VALKEY = "PostgreSQL: how long a call takes", "Valkey: how long a round trip takes"
SLOW_S = {RUN: 2.5, WAIT: 2.5, POSTGRES: 0.3, VALKEY: 0.3}
"""By panel: from where on somebody who looks at it would say that it is slow. A panel shows up to the double, as its
buckets are a doubling each: that of turns passes 2.5 s when one took more than 2.1 s, which the few calls to a slow
store before a turn starts do not add up to.
"""
ONE_WAY_S = 0.14
"""A store that is slow: on the way there, and on the way back."""

LIMITS = {"tenant": "local", "project": "main", "rate_limits": {"anonymous": {"burst": 1, "burst_window": 3600}}}

METER = """
from kdcube.sdk import Bundle

bundle = Bundle("meter@1.0.0")

@bundle.on_message
async def answer(turn):
    await turn.usage("a-model", 12, 3)
"""

pytestmark = pytest.mark.anyio


class Watched:
    """A system that can be made slow, and who watches it."""

    def __init__(self, stack: Stack, prometheus: Prometheus, postgres: Proxy, valkey: Proxy, connect: Connect) -> None:
        self.stack = stack
        self.prometheus = prometheus
        self.postgres = postgres
        self.valkey = valkey
        self._connect = connect
        self._scraped_s = 0.0
        self._pings: dict[str, float] = {}

    def user(self, token: str | None = None) -> Client:
        return self._connect(self.stack, token)

    async def turns(self, count: int, **message: Any) -> None:
        """So many users send a message each, at once, and hear their answers to the end."""

        async def talk(client: Client) -> None:
            sent = await client.sent("go", **message)
            await client.ended(sent["task_id"])

        await asyncio.gather(*(talk(self.user()) for _ in range(count)))

    async def scraped(self) -> None:
        """All that happened until now stands in Prometheus."""
        self._scraped_s = time.time()
        await self.prometheus.scraped_since(self._scraped_s)
        self._pings = await self._pinged()

    async def _pinged(self) -> dict[str, float]:
        """By process, how many round trips to Valkey Prometheus knows of."""
        samples = await self.prometheus.query('kdcube_valkey_ping_seconds_count{job="kdcube-processes"}')
        return {sample.labels["instance"]: sample.value for sample in samples}

    async def pinged_since(self) -> None:
        """A process tries a round trip each second, whatever else happens: a look may be over sooner than that. Waits
        for the second one since ``scraped``, as the first may have been under way then.
        """

        async def pinged() -> bool:
            counts = await self._pinged()
            return all(counts.get(process, 0) >= before + 2 for process, before in self._pings.items())

        await eventually(pinged, "each process has tried its way to Valkey")

    async def shown(self, title: str, since_s: float, job: str) -> list[list[Sample]]:
        """What each query of a panel gives for the time since then."""
        window = f"{math.ceil((time.time() - since_s) * 1000)}ms"
        queries = (target["expr"] for target in PANELS[title]["targets"])
        filled = (query.replace("$__rate_interval", window).replace("$job", job) for query in queries)
        return [await self.prometheus.query(query) for query in filled]

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[set[str]]:
        """Which panels are slow for what happens inside, known when it is left. Processes tell it at once by their own
        ports; the metrics service has it some seconds later.
        """
        since_s, slow = self._scraped_s, set[str]()
        yield slow
        await self.pinged_since()
        await self.scraped()
        for title, limit_s in SLOW_S.items():
            (samples,) = await self.shown(title, since_s, "kdcube-processes")
            assert samples, f"{title} shows nothing"
            slow |= {title} if max(sample.value for sample in samples) > limit_s else set()

    async def all_sorts(self) -> None:
        """A little of everything that is counted."""
        nobody = self.user("")
        (await nobody.ask("GET", "/profile")).raise_for_status()
        answers = [await nobody.send() for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 429]
        await self.turns(1, bundle_id="meter@1.0.0")
        proc = next(service.url for service in self.stack.state.services if service.name == "proc")
        operation = f"{proc}{PREFIX}/integrations/bundles/local/main/echo@1.0.0/operations/echo"
        (await self.user().http.post(operation, json={"data": {}})).raise_for_status()


@pytest.fixture
def postgres(database_url: str) -> Iterator[Proxy]:
    """The way to PostgreSQL."""
    with Proxy(urlsplit(database_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[Proxy]:
    """The way to Valkey."""
    with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def watched(
    new_stack: StackFactory, database_url: str, postgres: Proxy, valkey: Proxy, connect: Connect, tmp_path: Path
) -> AsyncGenerator[Watched]:
    port = urlsplit(database_url).port
    meter = tmp_path / "meter"
    meter.mkdir()
    (meter / "bundle.py").write_text(METER)
    stack = new_stack(
        *("--metrics", "--ingress", "1", "--slots", str(SLOTS + 1), "--bundle", str(ECHO), "--bundle", str(meter)),
        *("--redis-url", valkey.url, "--database-url", database_url.replace(f":{port}/", f":{postgres.port}/")),
        GATEWAY_CONFIG_JSON=json.dumps(LIMITS),
        METRICS_PROM_SCRAPE_TTL_SEC="0",
        METRICS_SCHEDULER_ENABLED="1",
        METRICS_EXPORT_PROMETHEUS_PUSH="1",
        METRICS_PROM_PUSHGATEWAY_URL="http://127.0.0.1:1",  # nobody listens
    )
    ports = {"kdcube": (80,), "kdcube-processes": (30, 40)}
    targets = {job: [f"127.0.0.1:{stack.port + offset}" for offset in offsets] for job, offsets in ports.items()}
    async with open_prometheus(tmp_path, targets) as prometheus:
        yield Watched(stack, prometheus, postgres, valkey, connect)


async def test_what_makes_it_slow_stands_in_a_panel_of_its_own(watched: Watched) -> None:
    began_s = time.time()
    await watched.turns(1, echo={"crash_after": 0})
    await watched.turns(1)  # waits for the bundle's next process
    await watched.all_sorts()
    await watched.scraped()
    async with watched.looking() as slow:
        await watched.turns(SLOTS)
    assert slow == set()

    async with watched.looking() as slow:
        await watched.turns(SLOTS, echo={"deltas": 2, "delay_ms": 2_100})
    assert slow == {RUN}

    async with watched.looking() as slow:
        await asyncio.gather(watched.turns(8 * SLOTS, echo={"deltas": 2, "delay_ms": 400}), watched.all_sorts())
    assert slow == {WAIT}

    for line, panel in ((watched.postgres, POSTGRES), (watched.valkey, VALKEY)):
        line.slow(ONE_WAY_S)
        async with watched.looking() as slow:
            await watched.turns(SLOTS)
        assert slow == {panel}
        line.slow(0)
        await watched.turns(1)  # calls that were under way have ended as well
        await watched.scraped()

    async def heard() -> bool:
        return all(await watched.shown("How long operations take", began_s, "kdcube"))

    await eventually(heard, "the metrics service has heard of the second of all sorts")
    shown = {title: await watched.shown(title, began_s, "kdcube") for title in PANELS}
    assert [title for title, queries in shown.items() if not all(queries)] == [], "each query gives data"

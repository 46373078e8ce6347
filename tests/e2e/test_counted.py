"""What happens is counted once, by the process that does it, and can be read on its internal port."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.client import Client, is_mark, logged
from tests.e2e.conftest import Stack
from tests.eventually import eventually

from kdcube.protocol.ids import new_id

pytestmark = pytest.mark.anyio

INTERNAL = 30
"""From the port of a service to its internal one, under ``kdcube up``."""


async def figures(stack: Stack) -> Counter[str]:
    """Of all processes together: ``name{values of labels in their order}``, without ``kdcube_`` and the component."""
    added: Counter[str] = Counter()
    async with httpx.AsyncClient() as http:
        for service in stack.state.services:
            if service.name in ("ingress", "proc"):
                url = httpx.URL(service.url)
                text = (await http.get(url.copy_with(port=(url.port or 0) + INTERNAL, path="/metrics"))).text
                for family in text_string_to_metric_families(text):
                    for sample in family.samples:
                        values = ",".join(
                            value for label, value in sorted(sample.labels.items()) if label != "component"
                        )
                        added[f"{sample.name.removeprefix('kdcube_')}{{{values}}}"] += sample.value
    return added


async def happens(client: Client) -> int:
    """Some of everything; how many events were read by streams that were read to their ends."""
    first = await client.sent("one two three", key="a-key", trial={"usage": (7, 5)})
    whole = await client.ended(first["task_id"])
    repeated = await client.sent("one two three", key="a-key", trial={"usage": (7, 5)})
    assert repeated["task_id"] == first["task_id"]
    async with client.turn_stream(first["task_id"], at=1, cursor=whole[1].id) as stream:
        rest = await stream.rest()
    failed = await client.ended((await client.sent("x", echo={"fail": True}))["task_id"])
    conversation = new_id()
    async with client.user_stream() as stream:
        await client.mark(first["conversation_id"])
        await stream.until(is_mark)
    busy = await client.sent("busy", conversation_id=conversation, trial={"hold": "/never"})
    refused = await client.send("too soon", conversation_id=conversation, policy="reject")
    assert refused.status_code == 409
    waits = await client.sent("waits", conversation_id=conversation)
    assert await client.cancel(turn_id=waits["turn_id"]) == "cancelling"
    assert await client.cancel(turn_id=busy["turn_id"]) == "cancelling"
    cancelled = await client.ended(busy["task_id"])
    return sum(len(logged(events)) for events in (whole, rest, failed, cancelled))


EXPECTED = {
    "admissions_total{admitted,registered}": 4,
    "admissions_total{duplicate,registered}": 1,
    "admissions_refused_total{conversation_busy,registered}": 1,
    "claims_total{registered}": 3,
    "attempts_total{trial@1.0.0}": 3,
    "attempts_repeated_total{trial@1.0.0}": 0,
    "turn_wait_seconds_count{registered}": 3,
    "turn_run_seconds_count{trial@1.0.0,completed}": 1,
    "turn_first_output_seconds_count{trial@1.0.0}": 3,
    "turns_ended_total{trial@1.0.0,completed}": 1,
    "turns_ended_total{trial@1.0.0,failed}": 1,
    "turns_ended_total{trial@1.0.0,cancelled}": 2,
    "tokens_used_total{trial@1.0.0,input,trial-model}": 7,
    "tokens_used_total{trial@1.0.0,output,trial-model}": 5,
    "streams_opened_total{turn}": 4,
    "streams_opened_total{user}": 1,
    "streams_resumed_total{turn}": 1,
    "streams_ended_total{completed}": 4,
    "streams_ended_total{left}": 1,
    "stream_resyncs_total{}": 0,
    "http_request_seconds_count{POST,/sse/chat,2xx}": 5,
    "http_request_seconds_count{POST,/sse/chat,4xx}": 1,
}


async def test_what_happens_is_counted_once(trial_stack, connect):
    before = await figures(trial_stack)
    events = await happens(connect(trial_stack))

    async def told() -> bool:
        """That a connection is gone, and a turn is settled, is noticed behind the client's back."""
        now = await figures(trial_stack)
        return {name: now[name] - before[name] for name in EXPECTED} == EXPECTED

    try:
        await eventually(told, "all is counted", within_s=20)
    finally:
        after = await figures(trial_stack)
        assert {name: after[name] - before[name] for name in EXPECTED} == EXPECTED
    assert after["stream_events_total{}"] - before["stream_events_total{}"] >= events
    assert after["stream_bytes_total{}"] - before["stream_bytes_total{}"] > 100 * events
    assert after["turn_run_seconds_sum{trial@1.0.0,completed}"] > 0


async def test_levels_are_those_of_the_processes(trial_stack, connect):
    async with connect(trial_stack).user_stream() as stream:
        await stream.next()
        now = await figures(trial_stack)
    assert now["streams_open{}"] >= 1
    assert now["streams_cap{}"] == 2 * 10_000
    assert now["slots{}"] >= 1
    assert now["queue_cap{}"] == 2_000
    assert now["leading{}"] == 1
    assert now["hosts{trial@1.0.0}"] >= 1
    assert now["host_memory_bytes{trial@1.0.0}"] > 1_000_000
    assert now["valkey_connected{}"] == 3
    assert now["breaker_open{postgres}"] == now["breaker_open{valkey}"] == 0
    assert now["process_memory_bytes{}"] > 30_000_000
    assert now["process_cpu_seconds_total{}"] > 0
    for measured in ("loop_lag_seconds_count{}", "valkey_ping_seconds_count{}", "postgres_call_seconds_count{}"):
        assert now[measured] > 0
    assert now["host_loop_lag_seconds_count{trial@1.0.0}"] > 0

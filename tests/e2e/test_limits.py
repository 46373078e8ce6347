"""Limits of the whole system: exact over four ingress processes, and the right users served at twice the capacity."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from tests.e2e.conftest import TRIAL

pytestmark = pytest.mark.anyio

CLIENTS = 200
BURST = 37
SLOTS = 4
CAPACITY = 20
LIMITS = {
    "tenant": "local",
    "project": "main",
    "rate_limits": {
        "anonymous": {"burst": -1, "hourly": -1},
        "registered": {"burst": BURST, "hourly": 1_000, "burst_window": 3_600},
        "paid": {"burst": -1, "hourly": -1},
        "privileged": {"burst": -1, "hourly": -1},
    },
    "backpressure": {
        "capacity_buffer": 0.0,
        "queue_depth_multiplier": CAPACITY / SLOTS,
        "anonymous_pressure_threshold": 0.4,
        "registered_pressure_threshold": 0.6,
        "paid_pressure_threshold": 0.8,
        "hard_limit_threshold": 1.0,
    },
}


@pytest.fixture
def limited(new_stack):
    """Four ingress processes and four slots, at first without pressure."""

    def start(**sections):
        config = json.dumps({**LIMITS, **sections})
        args = ("--ingress", "4", "--slots", str(SLOTS), "--bundle", str(TRIAL))
        return new_stack(*args, GATEWAY_CONFIG_JSON=config)

    return start


async def test_precisely_so_many_are_admitted_over_all_processes(limited, connect):
    wide = {**LIMITS["backpressure"], "queue_depth_multiplier": 1_000}
    stack = limited(backpressure=wide)
    clients = [connect(stack, token) for token in ("token-alice", "token-bob")]
    # 200 clients, each with a connection of its own, of two users at four processes.
    answers = await asyncio.gather(*(clients[n % 2].send(at=n // 2, key=f"key-{n}") for n in range(CLIENTS)))
    for user in range(2):
        codes = Counter(answer.status_code for answer in answers[user::2])
        assert codes == {202: BURST, 429: CLIENTS // 2 - BURST}
    for refused in (answer for answer in answers if answer.status_code == 429):
        assert refused.json()["error"] == "rate_limit_burst"
        assert int(refused.headers["retry-after"]) == refused.json()["retry_after_s"] > 3_500
        assert '"burst";r=0;t=' in refused.headers["ratelimit"]
    # What was admitted is served, and a repeat of it is neither refused nor counted.
    again = await asyncio.gather(*(clients[n % 2].send(at=n // 2 + 1, key=f"key-{n}") for n in range(CLIENTS)))
    for first, second in zip(answers, again, strict=True):
        assert first.status_code == second.status_code
        if first.status_code == 202:
            assert second.json()["duplicate"] and second.json()["task_id"] == first.json()["task_id"]


async def test_at_twice_the_capacity_the_right_users_are_served(limited, connect, gate):
    stack = limited()
    clients = {
        "anonymous": connect(stack, ""),
        "registered": connect(stack, "token-alice"),
        "paid": connect(stack, "token-paid"),
        "privileged": connect(stack, "token-admin"),
    }
    admitted: dict[str, list[dict[str, str]]] = {kind: [] for kind in clients}
    refused: Counter[str] = Counter()
    for n in range(2 * CAPACITY):
        kind = list(clients)[n % 4]
        answer = await clients[kind].send(at=n, trial={"hold": str(gate.path)})
        if answer.status_code == 202:
            admitted[kind].append(answer.json())
            continue
        assert (answer.status_code, answer.json()["error"]) == (503, "backpressure")
        assert int(answer.headers["retry-after"]) >= 1
        refused[kind] += 1
    # 8 of 20 while anonymous users may, 12 while registered ones may, 16 while paid ones may, and the rest.
    assert {kind: len(turns) for kind, turns in admitted.items()} == {
        "anonymous": 2,
        "registered": 4,
        "paid": 5,
        "privileged": 9,
    }
    gate.open()
    for kind, turns in admitted.items():
        for turn in turns:
            assert (await clients[kind].ended(turn["task_id"]))[-1].name == "chat_complete"
    assert (await clients["anonymous"].send()).status_code == 202

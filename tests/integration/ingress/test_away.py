"""A store that hangs or is gone: refused at once and honestly, and served again as soon as it is back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.ingress.asking import body, sent

pytestmark = pytest.mark.anyio

CLIENTS = 200


@pytest.fixture
async def clients(bench_with: Any, database_url: str) -> list[Any]:
    """Without TLS: asyncpg leaves errors unheard when it gives up in the midst of its handshake."""
    bench = await bench_with(DATABASE_URL=f"{database_url}?sslmode=disable")
    return [await bench.client(token) for token in ("alice-token", "bob-token", "root-token")]


@pytest.fixture
def hanging(postgres_server: Any) -> Iterator[Callable[[], None]]:
    """Makes PostgreSQL stand still (SIGSTOP) until the test or its end wakes it."""
    yield postgres_server.pause
    postgres_server.resume()


async def ask_all(clients: list[Any], begin: int) -> Counter[tuple[int, str]]:
    """Messages and questions, all at once."""

    async def ask(n: int) -> Any:
        client = clients[n % len(clients)]
        if n % 2:
            return await client.post("/sse/chat", json=body(turn_id=f"t{n}"))
        return await client.get("/conversations")

    answers = await asyncio.gather(*(ask(n) for n in range(begin, begin + CLIENTS)))
    for answer in answers:
        told = answer.json()
        assert told["retry_after_s"] == int(answer.headers["retry-after"]) >= 1
    return Counter((answer.status_code, answer.json()["error"]) for answer in answers)


async def test_while_postgresql_hangs_everybody_gets_a_503_and_nobody_waits_long(
    clients: list[Any], hanging: Callable[[], None], postgres_server: Any
) -> None:
    alice = clients[0]
    await sent(alice)
    hanging()
    first = await ask_all(clients, 0)
    assert {code for code, _ in first} == {503}
    assert {error for _, error in first} <= {"store_unavailable", "outcome_unknown"}
    # Now it is known: nobody asks PostgreSQL any more, and no message is begun.
    again = await ask_all(clients, CLIENTS)
    assert again == {(503, "store_unavailable"): CLIENTS}
    told = (await alice.get("/conversations")).json()
    assert "database" in told["message"]
    postgres_server.resume()
    response = await alice.get("/conversations")
    assert response.status_code == 200, response.text
    await sent(alice, turn_id="after")


async def test_while_valkey_hangs_everybody_gets_a_503_and_it_closes_by_itself(bench: Any, valkey_server: Any) -> None:
    alice = await bench.client("alice-token")
    await sent(alice)
    valkey_server.pause()
    try:

        async def all_refused() -> None:
            answers = await asyncio.gather(*(alice.post("/sse/chat", json=body()) for _ in range(CLIENTS)))
            for answer in answers:
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1

        await all_refused()  # within the deadline of a command
        await all_refused()  # at once
        assert (await alice.get("/conversations")).status_code == 200  # what needs no Valkey is served
    finally:
        valkey_server.resume()

    async def is_ready() -> bool:  # the breaker closes by a probe of its own; its process alone knows when
        return (await alice.get("/ready")).status_code == 200

    await eventually(is_ready, "Valkey is known to be back")
    await sent(alice)

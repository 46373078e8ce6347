"""What each script of a turn costs Valkey, in microseconds a call: wall time in the script (INFO commandstats, which a
busy machine inflates) and CPU time of the server's main thread, its protocol included (INFO cpu).

    python bench/redis_scripts.py redis://127.0.0.1:6379/0 [TURNS]

The server is emptied. Turns of many users are admitted in several classes and bundles; all wait in the queue before the
first is claimed, so that sets are as deep as they get.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Iterable

import uvloop

from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnEnvelope, TurnState, UserType
from kdcube.redis.admission import Admission, AdmissionLimits, Admitted, ClassLimits
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Claim, Queue
from kdcube.redis.workers import Workers

IN_FLIGHT = 64
BUNDLES = ("echo@1", "support@2", "search@1")
LINE = b'delta {"type":"chat.delta","ts":1732355000123,"attempt":1,"delta":{"text":"' + b"x" * 60 + b'"}}'


async def spent(connection: Connection) -> tuple[float, float]:
    """Microseconds in EVALSHA since the statistics were reset, and of CPU since the server started."""
    text: bytes = await connection.call("INFO", "commandstats", "cpu")
    info = dict(row.split(":", 1) for row in text.decode().splitlines() if ":" in row)
    scripts = dict(part.split("=") for part in info.get("cmdstat_evalsha", "usec=0").split(","))
    cpu_s = float(info["used_cpu_user_main_thread"]) + float(info["used_cpu_sys_main_thread"])
    return float(scripts["usec"]), cpu_s * 1e6


async def measure(connection: Connection, label: str, calls: Iterable[Awaitable[object]]) -> list[object]:
    waiting = iter(list(calls))
    results: list[object] = []

    async def worker() -> None:
        for call in waiting:
            results.append(await call)

    await connection.call("CONFIG", "RESETSTAT")
    _, cpu_before = await spent(connection)
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    in_scripts, cpu = await spent(connection)
    count = len(results)
    print(f"{label:<24}{count:>8} calls{in_scripts / count:>10.1f} us{(cpu - cpu_before) / count:>10.1f} us CPU")
    return results


def envelope(number: int, users: int) -> TurnEnvelope:
    user = f"user-{number % users}"
    return TurnEnvelope(
        turn_id=new_id(),
        client_turn_id=f"turn_{number}",
        tenant="bench",
        project="bench",
        user_id=user,
        user_type=list(UserType)[number % users % 3],
        session_id=user,
        request_id=new_id(),
        conversation_id=new_id(),
        bundle_id=BUNDLES[number % len(BUNDLES)],
        text="How do I change the battery of the remote control that came with it?" * 3,
        content_hash=secrets.token_hex(32),
    )


async def main(url: str, turns: int) -> None:
    none = ClassLimits(-1, 60, -1, 1e9)
    limits = AdmissionLimits(dict.fromkeys(UserType, none), 1e9, 0.0, 1.0, -1)
    keys = Keys("bench", "bench")
    async with open_connection(url, name="bench", deadline_s=60) as connection:
        await connection.call("FLUSHALL")
        state = WorkingState(connection, keys)
        await state.begin(1)
        await state.publish(1, max_order=0, run_id="")
        workers = Workers(connection, keys)
        for number in range(4):
            await workers.beat(f"worker-{number}", slots=1000, info={})
        admission, queue, logs = (
            Admission(connection, keys, limits),
            Queue(connection, keys),
            EventLogs(connection, keys),
        )
        room = dict.fromkeys(BUNDLES, 1000)
        empty = [
            queue.claim(epoch=1, worker_id="worker-0", revision="1", room=room, claim_ids=[new_id()])
            for _ in range(500)
        ]
        await measure(connection, "claim, nothing waits", empty)

        envelopes = [envelope(number, users=turns // 4) for number in range(turns)]
        outcomes = await measure(
            connection, "admit", (admission.admit(one, epoch=1, nonce=new_id()) for one in envelopes)
        )
        assert all(isinstance(outcome, Admitted) for outcome in outcomes)
        nonce = new_id()
        await measure(connection, "admit, duplicate", (admission.admit(one, epoch=1, nonce=nonce) for one in envelopes))

        async def claim(count: int) -> list[Claim]:
            ids = [new_id() for _ in range(count)]
            claimed = await queue.claim(epoch=1, worker_id="worker-0", revision="1", room=room, claim_ids=ids)
            assert isinstance(claimed, list)
            return claimed

        claims: list[Claim] = []
        for size, share in ((1, turns // 2), (16, turns // 2)):
            for batch in await measure(connection, f"claim {size}", (claim(size) for _ in range(share // size))):
                assert isinstance(batch, list)
                claims += batch

        await measure(
            connection,
            "start",
            (queue.start(c.envelope, c.claim_id, epoch=1, attempt=1, head=b'"a":1', line=LINE) for c in claims),
        )
        for seq, (count, label) in enumerate(((1, "append 1 event"), (20, "append 20 events")), 1):
            tail = 1 if seq == 1 else 2
            await measure(
                connection,
                label,
                (
                    logs.append(
                        c.envelope.turn_id,
                        c.claim_id,
                        epoch=1,
                        seq=seq,
                        tail=tail,
                        count=count,
                        lines=b"\n".join([LINE] * count),
                    )
                    for c in claims
                ),
            )
        await measure(connection, "read log, whole", (logs.read(c.envelope.turn_id) for c in claims))
        await measure(
            connection,
            "finish",
            (queue.finish(c.envelope, c.claim_id, epoch=1, state=TurnState.COMPLETED, line=LINE) for c in claims),
        )
        await connection.call("FLUSHALL")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python bench/redis_scripts.py URL [TURNS]")
    uvloop.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4000))

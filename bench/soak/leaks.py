"""Leaks on purpose: what proves that the soak finds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, get_args

import asyncpg
from bench.soak.stores import KEYS, NAME
from bench.soak.system import System

from kdcube.protocol.ids import new_id
from kdcube.redis.connection import open_connection

Leak = Literal["memory", "descriptors", "keys", "connections", "rows"]
LEAKS: tuple[Leak, ...] = get_args(Leak)
"""``memory`` and ``descriptors`` of bundle hosts, by the bundle; the others in the stores, by the soak itself."""
_EVERY_S = 0.5


@asynccontextmanager
async def leaking(leaks: Collection[Leak], system: System) -> AsyncGenerator[Callable[[], None]]:
    """Leaves things of these kinds behind until what it yields is called; they stay until the context is closed."""
    async with AsyncExitStack() as kept:
        task = asyncio.create_task(_leave(leaks, system, kept))
        try:
            yield task.cancel
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _leave(leaks: Collection[Leak], system: System, kept: AsyncExitStack) -> None:
    while True:
        await asyncio.sleep(_EVERY_S)
        if "keys" in leaks:
            async with open_connection(system.valkey_url, name=NAME) as valkey:
                await valkey.call("SET", KEYS.log(new_id()), "left")
        if "connections" in leaks:
            await kept.enter_async_context(open_connection(system.valkey_url, name="left"))
        if "rows" in leaks and system.dsn is not None:
            connection = await asyncpg.connect(system.dsn, server_settings={"application_name": NAME})
            await connection.execute(_COPY, new_id())
            await connection.close()


_COPY = """
insert into turns (tenant, project, turn_id, client_turn_id, conversation_id, user_id, user_type, session_id,
                   request_id, bundle_id, content_hash, envelope, state, admitted_order, accepted_ms, message)
select tenant, project, $1, client_turn_id, conversation_id, user_id, user_type, session_id, request_id,
       bundle_id, content_hash, envelope, 'completed', admitted_order, accepted_ms, message
from turns limit 1
"""

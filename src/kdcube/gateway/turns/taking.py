"""What it takes to take messages: opened alike by each service that does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.foundation import Foundation
from kdcube.gateway.limits import Limiter
from kdcube.gateway.turns.accepting import Accepting
from kdcube.gateway.turns.cancelling import Cancelling
from kdcube.gateway.turns.messages import Composer
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.turns import Turns
from kdcube.redis.admission import Admission
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.queue import Queue
from kdcube.redis.workers import Workers


@dataclass(frozen=True, slots=True)
class Taking:
    """Open as long as the context of ``open_taking``."""

    composer: Composer
    accepting: Accepting
    cancelling: Cancelling
    conversations: Conversations
    queue: Queue


@asynccontextmanager
async def open_taking(
    foundation: Foundation, limiter: Limiter, turns: Turns, epochs: EpochWatch, bundles: LiveBundles
) -> AsyncGenerator[Taking]:
    """Admits within what ``limiter`` says now. At its end, what was begun is finished first."""
    connection, keys = foundation.connection, foundation.keys
    conversations = Conversations(foundation.database, *foundation.scope)
    admission = Admission(connection, keys, limiter.admission)
    queue = Queue(connection, keys)
    instruments = foundation.instruments
    cancelling = Cancelling(turns, conversations, queue, epochs, instruments)

    def enforce(_: GatewayConfig) -> None:
        admission.limits = limiter.admission
        queue.running_per_user = admission.limits.running_per_user

    foundation.live.subscribe(enforce)
    workers = Workers(connection, keys)
    async with Accepting(
        admission, queue, workers, turns, epochs, cancelling, instruments, foundation.tracing
    ) as accepting:
        yield Taking(Composer(foundation.live, bundles), accepting, cancelling, conversations, queue)

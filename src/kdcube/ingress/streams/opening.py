"""Where a user's stream begins: the feed, the turns that live, and what the client's cursor says (rules 18 and 19)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from kdcube.gateway.caller import Caller
from kdcube.ingress.streams.sources import EpochSource, FeedReader, StoredTurns
from kdcube.ingress.streams.track import Place
from kdcube.protocol.cursors import MAX_LIVE_TURNS, UserCursor, parse_user_cursor, user_tag
from kdcube.protocol.errors import EpochMismatch, InvalidInput, StoreUnavailable
from kdcube.redis.feed import FeedPage
from kdcube.redis.wire import STORE as VALKEY

NO_FEED = "00000000"
"""In a cursor: the user has no feed yet."""


@dataclass(frozen=True, slots=True)
class Opening:
    """``feed`` and ``offset`` are the place in the feed; ``places`` that in each turn that is shown.

    ``orphans`` are turns among them whose end the feed does not tell; ``elsewhere`` live turns that are not shown.
    """

    epoch: int
    feed: str
    offset: int
    places: dict[str, Place]
    orphans: frozenset[str] = frozenset()
    elsewhere: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Replay:
    """What the feed says behind the cursor."""

    page: FeedPage
    named: set[str] = field(default_factory=set[str])
    ended: set[str] = field(default_factory=set[str])


async def once_rebuilt(
    open_: Callable[[], Awaitable[Opening]], epochs: EpochSource, receive: Receive, wait_s: float
) -> Opening:
    """What ``open_`` gives, tried again with each epoch while Valkey is away or rebuilt, for ``wait_s`` at most.

    Raises what ``open_`` last raised, or ClientDisconnect when the client has left.
    """
    try:
        return await open_()
    except (EpochMismatch, StoreUnavailable) as error:
        if not _passes(error):
            raise
        away = error

    async def try_again() -> Opening:
        nonlocal away
        while True:
            epochs.suspect()
            await epochs.wait_for()
            try:
                return await open_()
            except (EpochMismatch, StoreUnavailable) as error:
                if not _passes(error):
                    raise
                away = error

    opening, leaving = asyncio.create_task(try_again()), asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({opening, leaving}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            return opening.result()
        raise ClientDisconnect if leaving.done() else away
    finally:
        opening.cancel()
        leaving.cancel()
        await asyncio.wait({opening, leaving})


def _passes(error: EpochMismatch | StoreUnavailable) -> bool:
    """Whether the next epoch may bring what was missing."""
    return isinstance(error, EpochMismatch) or error.store == VALKEY


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def open_at(
    feeds: FeedReader, turns: StoredTurns, caller: Caller, cursor: str | None, conversation_id: str | None
) -> Opening:
    """Raises InvalidInput for a cursor that is malformed or not the caller's, EpochMismatch while Valkey is rebuilt."""
    if cursor is None:
        page = await feeds.read(caller.user_id, None)
        epoch = _epoch(page)
        wanted = await _of_conversation(turns, caller, _by_age(page.live), conversation_id)
        return _bounded(epoch, page.feed, page.tail, {turn: Place() for turn in wanted})
    given = parse_user_cursor(cursor)
    anonymous = caller.anonymous_user_id
    foreign = given.tag != user_tag(caller.user_id)
    if foreign and (anonymous is None or given.tag != user_tag(anonymous)):
        raise InvalidInput("cursor", "the cursor belongs to another user")
    replay = await _replay(feeds, caller, given)
    page = replay.page
    epoch = _epoch(page)
    await _check_owner(turns, caller, given.live.keys() - page.live.keys() - replay.named)
    feed_lost = foreign or _feed_lost(given, page)
    lost = feed_lost or given.epoch != epoch
    offset = page.tail if feed_lost else given.offset
    places = {
        turn: Place(given.epoch, at.incarnation, at.offset, lost=lost, ended=at.ended)
        for turn, at in given.live.items()
    }
    unnamed = [turn for turn in _by_age(page.live) if (feed_lost or page.live[turn] <= offset) and turn not in places]
    for turn in await _of_conversation(turns, caller, unnamed, conversation_id):
        places[turn] = Place(lost=lost)
    told = page.live.keys() if feed_lost else page.live.keys() | replay.ended
    return _bounded(epoch, page.feed, offset, places, orphans=frozenset(places.keys() - told))


def _epoch(page: FeedPage) -> int:
    if page.epoch is None:
        raise EpochMismatch
    return page.epoch


def _by_age(live: dict[str, int]) -> list[str]:
    return sorted(live, key=live.__getitem__)


def _bounded(
    epoch: int, feed: str, offset: int, places: dict[str, Place], orphans: frozenset[str] = frozenset()
) -> Opening:
    shown = dict(list(places.items())[:MAX_LIVE_TURNS])
    elsewhere = [turn for turn in places if turn not in shown]
    return Opening(epoch, feed or NO_FEED, offset, shown, orphans, elsewhere)


def _feed_lost(given: UserCursor, page: FeedPage) -> bool:
    """The feed cannot be continued behind the cursor: it is another one, or does not reach so far back."""
    if given.feed == NO_FEED:
        return page.tail > 0 and page.first != 1
    if given.feed != page.feed or given.offset > page.tail:
        return True
    return given.offset < page.tail and not 0 < page.first <= given.offset + 1


async def _replay(feeds: FeedReader, caller: Caller, given: UserCursor) -> _Replay:
    replay = _Replay(await feeds.read(caller.user_id, given.offset))
    page = replay.page
    while True:
        for _, event in page.events:
            turn = event.get("turn_id")
            if turn is not None:
                replay.named.add(turn)
                if event["type"] == "turn.ended":
                    replay.ended.add(turn)
        if not page.events or page.events[-1][0] >= page.tail:
            return replay
        page = await feeds.read(caller.user_id, page.events[-1][0])


async def _check_owner(turns: StoredTurns, caller: Caller, named: Iterable[str]) -> None:
    users = [caller.user_id] + ([caller.anonymous_user_id] if caller.anonymous_user_id else [])

    async def owned(turn: str) -> bool:
        for user in users:
            if await turns.get(turn, user) is not None:
                return True
        return False

    if not all(await asyncio.gather(*(owned(turn) for turn in named))):
        raise InvalidInput("cursor", "the cursor names a turn that is not yours")


async def _of_conversation(
    turns: StoredTurns, caller: Caller, live: list[str], conversation_id: str | None
) -> list[str]:
    """Those of ``live`` that belong to the conversation; one whose row is still being written may."""
    if conversation_id is None:
        return live
    rows = await asyncio.gather(*(turns.get(turn, caller.user_id) for turn in live))
    return [turn for turn, row in zip(live, rows, strict=True) if row is None or row.conversation_id == conversation_id]

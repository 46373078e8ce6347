"""Logs: offsets, fences, incarnations, pages, and changes as they are published."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.redis.partition import HEAD, Partition, a_line, a_message, a_partition, terminal_line

from kdcube.protocol.cursors import Position
from kdcube.protocol.events import Fold
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnState
from kdcube.redis.eventlog import LOG_MAX_BYTES, Appended, Full, LogChange, LogPage, Rewound, decode_change
from kdcube.redis.queue import Claim, Fenced, Opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def claim(partition: Partition) -> Claim:
    """A running turn: one event in its log."""
    return await partition.running(await partition.admitted())


async def append(partition: Partition, claim: Claim, seq: int, tail: int, lines: list[bytes]):
    return await partition.logs.append(
        claim.envelope.turn_id,
        claim.claim_id,
        epoch=partition.epoch,
        seq=seq,
        tail=tail,
        count=len(lines),
        lines=b"\n".join(lines),
    )


async def reopen(partition: Partition, claim: Claim, seq: int, incarnation: int = 1, line: bytes = b"snapshot {}"):
    return await partition.logs.reopen(
        claim.envelope.turn_id,
        claim.claim_id,
        epoch=partition.epoch,
        seq=seq,
        line=line,
        head=HEAD,
        incarnation=incarnation,
    )


async def test_offsets_count_events_and_an_entry_has_the_offset_of_its_last(partition, claim):
    assert await append(partition, claim, 1, 1, [a_line("a"), a_line("b"), a_line("c")]) == Appended(4)
    assert await append(partition, claim, 2, 4, [a_line("d")]) == Appended(5)
    entries = await partition.connection.call("XRANGE", partition.keys.log(claim.envelope.turn_id), "-", "+")
    assert [entry[0] for entry in entries] == [b"1-0", b"4-0", b"5-0"]


async def test_a_reader_may_stand_anywhere_also_inside_a_batch(partition, claim):
    await append(partition, claim, 1, 1, [a_line(text) for text in "abc"])
    await append(partition, claim, 2, 4, [a_line(text) for text in "de"])
    lines = await partition.log_lines(claim.envelope.turn_id)
    assert len(lines) == 6
    for after in range(8):
        page = await partition.logs.read(claim.envelope.turn_id, after)
        assert page.lines == lines[after:]
        assert page == LogPage(1, True, True, 1, 6, False, HEAD, max(after, 6), lines[after:])


async def test_a_log_that_is_not_there(partition):
    assert await partition.logs.read(new_id()) == LogPage(1, False, False, 0, 0, False, b"", 0, [])
    message = await partition.admitted()
    page = await partition.logs.read(message.turn_id, 3)
    assert page.known and not page.exists


async def test_a_long_log_comes_in_pages(partition, claim):
    for seq in range(1, 101):
        await append(partition, claim, seq, seq, [a_line()])
    page = await partition.logs.read(claim.envelope.turn_id)
    assert (len(page.lines), page.offset, page.tail) == (64, 64, 101)
    assert len(await partition.log_lines(claim.envelope.turn_id)) == 101


async def test_a_page_of_large_entries_is_small(partition, claim):
    turn_id = claim.envelope.turn_id
    for seq in range(1, 61):
        await append(partition, claim, seq, seq, [a_line("x" * 100_000)])
    page = await partition.logs.read(turn_id)
    assert page.offset < page.tail
    assert sum(map(len, page.lines)) < 16 * 101_000
    assert len(await partition.log_lines(turn_id)) == 61


# --- repeats, fences, caps --------------------------------------------------------------------------------------------


async def test_an_append_whose_reply_was_lost_doubles_nothing(partition, claim):
    lines = [a_line("a"), a_line("b")]
    assert await append(partition, claim, 1, 1, lines) == Appended(3)
    async with partition.unchanged():
        assert await append(partition, claim, 1, 1, lines) == Appended(3)
    assert await append(partition, claim, 2, 3, lines) == Appended(5)


async def test_only_the_current_claim_may_append(partition, claim):
    other = dataclasses.replace(claim, claim_id="another")
    foreign = dataclasses.replace(claim, envelope=a_message())
    async with partition.unchanged():
        for stranger in (other, foreign):
            assert await append(partition, stranger, 1, 1, [a_line()]) == Fenced()
            assert await reopen(partition, stranger, 1) == Fenced()
    await partition.finish(claim)
    async with partition.unchanged():
        assert await append(partition, claim, 1, 2, [a_line()]) == Fenced()
        assert await reopen(partition, claim, 1) == Fenced()


@pytest.mark.parametrize("lost", [False, True])
async def test_nothing_is_added_to_a_turn_that_ended_while_its_lingers(partition, claim, lost):
    await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    if lost:  # the log has expired
        turn_id = claim.envelope.turn_id
        await partition.connection.call("DEL", partition.keys.log(turn_id), partition.keys.log_meta(turn_id))
    async with partition.unchanged():
        assert await append(partition, claim, 1, 2, [a_line()]) == Fenced()
        assert await reopen(partition, claim, 1) == Fenced()
        assert await partition.start(claim) == Fenced()


async def test_an_append_before_the_start_finds_no_log(partition):
    claim = await partition.claimed(await partition.admitted())
    async with partition.unchanged():
        assert await append(partition, claim, 1, 0, [a_line()]) == Rewound()


async def test_a_log_has_a_cap_and_still_ends(partition, claim):
    megabyte = a_line("x" * (1024 * 1024 - 200))
    seq = tail = 1
    while (outcome := await append(partition, claim, seq, tail, [megabyte])) != Full():
        seq, tail = seq + 1, outcome.tail
    assert tail == 1 + LOG_MAX_BYTES // len(megabyte)
    async with partition.unchanged():
        assert await append(partition, claim, seq, tail, [megabyte]) == Full()
    assert await append(partition, claim, seq, tail, [a_line("small")]) == Appended(tail + 1)
    assert await partition.finish(claim, TurnState.FAILED)
    assert (await partition.logs.read(claim.envelope.turn_id, tail + 1)).closed


async def test_the_cap_counts_all_attempts(partition, claim):
    half = a_line("x" * (LOG_MAX_BYTES // 2))
    assert await append(partition, claim, 1, 1, [half]) == Appended(2)
    await partition.queue.release(claim.envelope.turn_id, claim.claim_id, epoch=1)
    again = await partition.claimed(claim.envelope)
    assert await partition.start(again, attempt=2) == Opened(1, 3, False)
    assert await append(partition, again, 1, 3, [half]) == Full()


# --- incarnations -----------------------------------------------------------------------------------------------------


async def test_a_lost_log_begins_anew_with_a_snapshot(partition, claim):
    turn_id = claim.envelope.turn_id
    await append(partition, claim, 1, 1, [a_line("a")])
    await partition.connection.call("DEL", partition.keys.log(turn_id), partition.keys.log_meta(turn_id))
    assert await append(partition, claim, 2, 2, [a_line("b")]) == Rewound()
    assert await reopen(partition, claim, 2, incarnation=2) == Position(2, 1)
    async with partition.unchanged():
        assert await reopen(partition, claim, 2, incarnation=2) == Position(2, 1)
        assert await append(partition, claim, 2, 2, [a_line("b")]) == Appended(1)  # the snapshot has this write
    assert await append(partition, claim, 3, 1, [a_line("c")]) == Appended(2)
    page = await partition.logs.read(turn_id)
    assert (page.incarnation, page.tail, page.head) == (2, 2, HEAD)
    assert [line.partition(b" ")[0] for line in page.lines] == [b"snapshot", b"delta"]


async def test_a_log_that_a_stale_replica_has_begins_anew(partition, claim):
    """Rule 15: it is shorter than its writer knows."""
    turn_id = claim.envelope.turn_id
    await append(partition, claim, 1, 1, [a_line("a")])
    keys = (partition.keys.log(turn_id), partition.keys.log_meta(turn_id))
    stale = [await partition.connection.call("DUMP", key) for key in keys]
    await append(partition, claim, 2, 2, [a_line("b")])
    await append(partition, claim, 3, 3, [a_line("c")])
    for key, value in zip(keys, stale, strict=True):
        await partition.connection.call("RESTORE", key, 0, value, "REPLACE")
    async with partition.unchanged():
        assert await append(partition, claim, 4, 4, [a_line("d")]) == Rewound()
    assert await reopen(partition, claim, 4, incarnation=2) == Position(2, 1)
    assert await append(partition, claim, 5, 1, [a_line("e")]) == Appended(2)
    assert await reopen(partition, claim, 6, incarnation=1) == Position(3, 1)  # never an old one again


# --- what is published ------------------------------------------------------------------------------------------------


async def test_changes_chain_from_the_start_to_the_end(partition):
    message = await partition.admitted()
    claim = await partition.claimed(message)
    large = a_line("x" * 70_000)
    async with partition.listening(partition.keys.log_channel(message.turn_id)) as heard:
        await partition.start(claim)
        await append(partition, claim, 1, 1, [a_line("a"), a_line("b")])
        await append(partition, claim, 1, 1, [a_line("a"), a_line("b")])  # a repeat is not published again
        await append(partition, claim, 2, 3, [large])
        await reopen(partition, claim, 3)
        await partition.finish(claim)
        await partition.finish(claim)
        changes = [decode_change(await heard.get()) for _ in range(5)]
    assert heard.empty()
    start = (await partition.logs.read(message.turn_id)).lines  # of the second incarnation
    assert changes[1:] == [
        LogChange(1, 1, 1, 3, False, None, [a_line("a"), a_line("b")]),
        LogChange(1, 1, 3, 4, False, None, None),
        LogChange(1, 2, 0, 1, False, HEAD, start[:1]),
        LogChange(1, 2, 1, 2, True, None, [terminal_line()]),
    ]
    assert (changes[0].previous, changes[0].offset, changes[0].head) == (0, 1, HEAD)
    assert changes[0].lines is not None and changes[0].lines[0].startswith(b"start {")


async def test_64_kb_are_published_and_one_byte_more_is_not(partition, claim):
    fits = b"x" * 65536
    async with partition.listening(partition.keys.log_channel(claim.envelope.turn_id)) as heard:
        await append(partition, claim, 1, 1, [fits])
        await append(partition, claim, 2, 2, [fits + b"y"])
        assert decode_change(await heard.get()).lines == [fits]
        assert decode_change(await heard.get()).lines is None
    assert (await partition.logs.read(claim.envelope.turn_id, 2)).lines == [fits + b"y"]


async def test_a_turn_that_never_started_ends_with_a_log_of_one_event(partition):
    message = await partition.admitted()
    async with partition.listening(partition.keys.log_channel(message.turn_id)) as heard:
        await partition.finish(message, TurnState.CANCELLED)
        change = decode_change(await heard.get())
    assert change == LogChange(1, 1, 0, 1, True, None, [terminal_line(TurnState.CANCELLED)])


class Reader:
    """Follows a log as the streams of ingress do: published changes that fit, and a read whenever one does not."""

    def __init__(self, partition: Partition, turn_id: str) -> None:
        self.partition, self.turn_id = partition, turn_id
        self.incarnation = self.offset = 0
        self.fold = Fold(turn_id)
        self.reads = 0
        self.closed = False

    async def hear(self, change: LogChange) -> None:
        if (change.incarnation, change.previous) == (self.incarnation, self.offset) and change.lines is not None:
            self.fold.add_all(change.lines)
            self.offset, self.closed = change.offset, change.closed
        elif (change.incarnation, change.offset) > (self.incarnation, self.offset):
            await self.read()

    async def read(self) -> None:
        self.reads += 1
        while True:
            page = await self.partition.logs.read(self.turn_id, self.offset)
            if page.incarnation != self.incarnation:
                self.incarnation, self.offset, self.fold = page.incarnation, 0, Fold(self.turn_id)
                continue
            self.fold.add_all(page.lines)
            self.offset, self.closed = page.offset, page.closed
            if self.offset >= page.tail:
                return


STEPS = st.lists(st.one_of(st.integers(1, 5), st.sampled_from(["large", "lost message", "reopen"])), max_size=25)


def test_a_reader_that_follows_misses_nothing_and_sees_nothing_twice(server_url):
    async def play(steps: list[int | str]) -> None:
        async with a_partition(server_url) as partition:
            message = await partition.admitted()
            claim = await partition.claimed(message)
            reader, said, seq, skip = Reader(partition, message.turn_id), "", 0, False
            async with partition.listening(partition.keys.log_channel(message.turn_id)) as heard:
                opened = await partition.start(claim)
                tail = opened.tail
                for step in steps:
                    seq += 1
                    match step:
                        case "lost message":
                            skip = True
                            continue
                        case "reopen":
                            said_so_far = a_line(said)
                            tail = (await reopen(partition, claim, seq, line=said_so_far)).offset
                        case _:
                            texts = [f"{seq}.{n} " for n in range(step)] if isinstance(step, int) else ["y" * 70_000]
                            tail = (await partition.append(claim, seq, tail, *texts)).tail
                            said += "".join(texts)
                    payload = await heard.get()
                    if not skip:
                        await reader.hear(decode_change(payload))
                    skip = False
                await partition.finish(claim)
                while not reader.closed:
                    await reader.hear(decode_change(await heard.get()))
            assert reader.fold.text() == said
            assert reader.fold.state == TurnState.COMPLETED

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=STEPS)
    def run(steps: list[int | str]) -> None:
        asyncio.run(play(steps))

    run()

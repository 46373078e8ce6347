from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from kdcube.proc.bundles.jobs import Delta, Step
from kdcube.proc.log_writer import COALESCE_ABOVE, ClaimLost, LogWriter, OutputLimit, UnfitEvent
from kdcube.protocol.cursors import Position
from kdcube.protocol.errors import EpochMismatch, KDCubeError, StoreUnavailable
from kdcube.protocol.events import Fold, decode_body, split_line
from kdcube.protocol.turns import TurnEnvelope, UserType
from kdcube.redis.connection import ServerError
from kdcube.redis.eventlog import Appended, Full, Rewound
from kdcube.redis.queue import Fenced, Opened

pytestmark = pytest.mark.anyio

ENVELOPE = TurnEnvelope(
    turn_id="0" * 32,
    client_turn_id="t",
    tenant="x",
    project="y",
    user_id="u",
    user_type=UserType.PAID,
    session_id="s",
    request_id="r",
    conversation_id="c",
    bundle_id="b",
    text="",
    content_hash="h",
)


@dataclass
class FakeLogs:
    """A log; ``faults`` are what the next appends do instead: an outcome, or an exception."""

    lines: list[bytes] = field(default_factory=list[bytes])
    batches: list[int] = field(default_factory=list[int])
    faults: list[object] = field(default_factory=list[object])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    seqs: list[int] = field(default_factory=list[int])
    snapshots: list[bytes] = field(default_factory=list[bytes])

    async def append(self, turn_id: str, claim_id: str, *, epoch: int, seq: int, tail: int, count: int, lines: bytes):
        await self.gate.wait()
        self.seqs.append(seq)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        self.lines.extend(lines.split(b"\n"))
        self.batches.append(count)
        return Appended(tail + count)

    async def reopen(self, turn_id: str, claim_id: str, *, epoch, seq, line, head, incarnation):
        self.snapshots.append(line)
        return Position(incarnation, 1)


class FakeWatch:
    def suspect(self) -> None:
        pass

    async def wait_for(self) -> int:
        return 2


class Written:
    def __init__(self) -> None:
        self.logs = FakeLogs()
        self.logs.gate.set()
        self.credit = 0
        self.failures: list[KDCubeError] = []
        self.writer = LogWriter(
            self.logs,
            FakeWatch(),
            ENVELOPE,
            "claim",
            attempt=1,
            head=b"",
            opened=Opened(1, 1, False),
            epoch=1,
            on_written=self._written,
            on_failed=self.failures.append,
        )

    def _written(self, n_bytes: int) -> None:
        self.credit += n_bytes

    async def run(self, frames: list[object]) -> None:
        for frame in frames:
            self.writer.write(frame)
        task = asyncio.create_task(self.writer.run())
        await self.writer.flush(5)
        task.cancel()


@pytest.fixture
def written() -> Written:
    return Written()


async def test_what_comes_during_a_write_goes_together_into_the_next(written: Written) -> None:
    written.logs.gate.clear()
    task = asyncio.create_task(written.writer.run())
    written.writer.write(Delta(1, "a"))
    for _ in range(3):  # until the first append waits at the gate
        await asyncio.sleep(0)
    for text in "bcd":
        written.writer.write(Delta(1, text))
    written.logs.gate.set()
    await written.writer.flush(5)
    task.cancel()
    assert written.logs.batches == [1, 3]
    assert written.credit == 4
    assert [decode_body(line)["delta"]["index"] for line in written.logs.lines] == [0, 1, 2, 3]


async def test_deltas_that_pile_up_are_joined_but_other_events_keep_their_place(written: Written) -> None:
    frames: list[object] = [Delta(1, f"{n} ") for n in range(COALESCE_ABOVE * 3)]
    frames.append(Step(1, {"step": "s", "status": "started"}))
    frames += [Delta(1, "x"), Delta(1, "y", "thinking"), Delta(1, "z", "thinking")]
    await written.run(frames)
    kinds = [split_line(line)[0] for line in written.logs.lines]
    assert kinds == [b"delta"] * (COALESCE_ABOVE + 1) + [b"step", b"delta", b"delta"]
    fold = Fold(ENVELOPE.turn_id)
    fold.add_all(written.logs.lines)
    assert fold.text() == "".join(f"{n} " for n in range(COALESCE_ABOVE * 3)) + "x"
    assert fold.text("thinking") == "yz"


async def test_a_lost_reply_repeats_the_same_write(written: Written) -> None:
    written.logs.faults = [StoreUnavailable("valkey", "gone"), EpochMismatch()]
    await written.run([Delta(1, "a")])
    assert written.logs.seqs == [1, 1, 1]
    assert len(written.logs.lines) == 1


async def test_a_log_that_was_rolled_back_begins_anew_with_all_that_was_said(written: Written) -> None:
    await written.run([Delta(1, "one ")])
    written.logs.faults = [Rewound()]
    await written.run([Delta(1, "two")])
    snapshot = decode_body(written.logs.snapshots[0])["data"]
    assert (snapshot["text"], snapshot["incarnation"], snapshot["offset"]) == ({"answer": "one two"}, 2, 1)
    assert written.credit == 7


@pytest.mark.parametrize(
    ("outcome", "error"), [(Full(), OutputLimit), (Fenced(), ClaimLost), (ServerError("NOPERM", ""), ServerError)]
)
async def test_a_log_that_takes_no_more_is_told_and_the_text_is_kept(
    written: Written, outcome: object, error: type[KDCubeError]
) -> None:
    written.logs.faults = [outcome]
    await written.run([Delta(1, "said"), Delta(1, " too")])
    assert isinstance(written.failures[0], error)
    assert written.writer.fold.text() == "said too"


async def test_more_than_a_log_may_hold_is_not_even_kept(written: Written) -> None:
    """Events need no credit: a bundle may say them faster than Valkey takes them."""
    step = Step(1, {"step": "s"}, {"x": "y" * 1_000_000})
    for _ in range(20):
        written.writer.write(step)
    assert [type(failure) for failure in written.failures] == [OutputLimit]
    assert len(written.writer._waiting) == 0


async def test_a_batch_is_no_larger_than_valkey_should_take_at_once(written: Written) -> None:
    await written.run([Step(1, {"step": str(n)}, {"x": "y" * 400_000}) for n in range(5)] + [Delta(1, "end")])
    assert written.logs.batches == [2, 2, 2]
    assert [decode_body(line).get("event") for line in written.logs.lines[:5]] == [{"step": str(n)} for n in range(5)]


async def test_an_event_that_is_no_json_fails_the_turn(written: Written) -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for data in ({"x": object()}, {(1, 2): 3}, {"x": nested}):
        one = Written()
        await one.run([Delta(1, "said"), Step(1, {"step": "s"}, data), Delta(1, " too late")])
        assert [type(failure) for failure in one.failures] == [UnfitEvent]
        assert one.writer.fold.text() == "said"


async def test_flush_gives_up_when_valkey_stays_away_but_loses_no_text(written: Written) -> None:
    written.logs.gate.clear()
    written.writer.write(Delta(1, "a"))
    task = asyncio.create_task(written.writer.run())
    for _ in range(3):
        await asyncio.sleep(0)
    written.writer.write(Delta(1, "b"))
    await written.writer.flush(0)
    task.cancel()
    assert written.writer.fold.text() == "ab"

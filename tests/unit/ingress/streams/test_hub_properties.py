"""Whatever happens to messages, sockets and logs, in whatever order: each reader gets each event once, in order."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.ingress.streams.conftest import Site
from tests.unit.ingress.streams.fakes import FakeValkey, completed, delta, stored
from tests.unit.ingress.streams.harness import Event, Reader, View, read_turn, spin

from kdcube.ingress.streams import StreamSettings

TURN = "a" * 32

SETTINGS = StreamSettings(tick_s=3600, recent_bytes=3000, send_bytes=1200, stall_s=1e9)
"""Small, so that readers fall out of memory."""

often = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 1)),
    st.tuples(st.just("release"), st.just(0)),
    st.tuples(st.just("tick"), st.integers(4, 8)),
)
seldom = st.one_of(
    st.tuples(st.just("append large"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["lose", "repeat", "reconnect", "keep"]), st.integers(0, 20)),
    st.tuples(st.sampled_from(["pause", "resume", "cut", "join", "rejoin elsewhere"]), st.integers(0, 20)),
    st.tuples(st.sampled_from(["reopen", "lose valkey", "outage"]), st.just(0)),
)
steps = st.one_of(often, often, often, seldom)


class Story:
    """A turn, two ingress processes, and readers that come, go, pause and come back with what they were told."""

    def __init__(self) -> None:
        self.site = Site(valkey=FakeValkey(auto=False, page_batches=2))
        self.site.turns.add(stored(TURN))
        self.readers: list[tuple[list[Event], Reader]] = []
        self.said = ""
        self.count = 0
        self.epoch = 1

    async def run(self, script: list[tuple[str, int]]) -> None:
        valkey = self.site.valkey
        async with self.site.process(SETTINGS) as here, self.site.process(SETTINGS) as there:
            self.processes = (here, there)
            await self.join(0, [])
            valkey.start(TURN)
            valkey.gate = []
            for what, n in script:
                await self.step(what, n)
                await spin(6)
            self.end()
            async with asyncio.timeout(20):
                while not all(reader.task.done() for _, reader in self.readers):
                    self.release()
                    await spin(10)
                    for process in self.processes:
                        await self.site.later(process, 3)
            for before, reader in self.readers:
                view = View().apply_all(before + await reader.to_the_end())
                assert len(view.terminal) == 1
                assert view.text.get("answer", "") == self.said
            for process in self.processes:
                assert process.count == 0
                assert len(process._hub) == 0
            assert not any(channels.listeners for channels in valkey.channels)

    def end(self) -> None:
        valkey = self.site.valkey
        if not valkey.up or valkey.epoch is None:
            self.back()
        valkey.finish(TURN, completed(self.said))
        for channels in valkey.channels:
            channels.undelivered.clear()  # even the last message is lost
        for _, reader in self.readers:
            reader.resume()

    def back(self) -> None:
        valkey = self.site.valkey
        valkey.up = True
        if valkey.epoch is None:
            self.epoch += 1
            valkey.epoch = self.epoch
            valkey.reopen(TURN, self.said)
        for channels in valkey.channels:
            channels.reconnect()

    def release(self) -> None:
        waiting, self.site.valkey.gate = self.site.valkey.gate or [], []
        for reply in waiting:
            if not reply.done():
                reply.set_result(None)

    async def join(self, process: int, before: list[Event]) -> None:
        last = next((event.id for event in reversed(before) if event.id), None)
        reader = await read_turn(self.processes[process % 2], TURN, last)
        self.readers.append((before, reader))

    def words(self, n: int, padding: str = "") -> list[bytes]:
        lines = []
        for _ in range(n):
            self.count += 1
            word = f"{self.count}{padding} "
            self.said += word
            lines.append(delta(word))
        return lines

    async def step(self, what: str, n: int) -> None:
        valkey, site = self.site.valkey, self.site
        serving = valkey.up and valkey.epoch is not None
        channels = valkey.channels[n % 2]
        match what:
            case "append" if serving:
                valkey.append(TURN, self.words(n))
            case "append large" if serving:
                valkey.append(TURN, self.words(n, "x" * 500), carried=n % 2 == 0)
            case "deliver" if channels.undelivered:
                channels.deliver()
            case "lose" if channels.undelivered:
                del channels.undelivered[n % len(channels.undelivered)]
            case "repeat" if channels.delivered:
                channels.repeat(n % len(channels.delivered))
            case "keep" if channels.undelivered:  # overtaken by those behind it
                channels.undelivered.append(channels.undelivered.pop(0))
            case "reconnect":
                channels.reconnect()
            case "release":
                self.release()
            case "tick":
                await site.later(self.processes[n % 2], float(n))
            case "pause":
                self.readers[n % len(self.readers)][1].pause()
            case "resume":
                self.readers[n % len(self.readers)][1].resume()
            case "join" if len(self.readers) < 8:
                await self.join(n, [])
            case "cut" | "rejoin elsewhere":
                before, reader = self.readers.pop(n % len(self.readers))
                reader.resume()
                await reader.leave()
                await self.join(n if what == "cut" else n + 1, before + reader.events)
            case "reopen" if serving:
                valkey.reopen(TURN, self.said)
            case "lose valkey" if serving:
                valkey.epoch = None
                valkey.logs.clear()
                valkey.known.clear()
            case "outage":
                if serving:
                    valkey.up = False
                else:
                    self.back()
            case _:
                pass


@given(st.lists(steps, min_size=40, max_size=100))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_reader_gets_each_event_once_in_order_and_then_the_end(script):
    asyncio.run(Story().run(script))

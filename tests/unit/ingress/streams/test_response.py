"""A response in time: silence, stalls, disconnects, drains, and the cap."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.ingress.streams.fakes import delta, stored
from tests.unit.ingress.streams.harness import Reader, View, caller, read_turn, read_user, request, spin

from kdcube.gateway.errors import Unavailable
from kdcube.ingress.streams import StreamSettings
from kdcube.protocol.ids import new_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def turn(site):
    turn_id = new_id()
    site.turns.add(stored(turn_id))
    site.valkey.start(turn_id)
    return turn_id


async def test_headers(streams, turn):
    sent = []

    async def send(message):
        sent.append(message)

    response = await streams.turn_stream(request(), caller(), turn)
    task = asyncio.create_task(response({"type": "http", "method": "GET"}, asyncio.Event().wait, send))
    await spin()
    assert dict(sent[0]["headers"]) == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-cache, no-transform",
        b"x-accel-buffering": b"no",
    }
    task.cancel()
    await asyncio.wait({task})
    assert streams.count == 0


async def test_head_has_no_body(streams, turn):
    reader = Reader(await streams.turn_stream(request(), caller(), turn), method="HEAD")
    await reader.to_the_end()
    assert (reader.status, reader.bytes, reader.complete) == (200, 0, True)


async def test_a_comment_after_each_silence(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    for seconds, comments in ((14, 0), (2, 1), (14, 1), (2, 2)):
        await site.later(streams, seconds)
        assert reader.comments == comments
    await site.later(streams, 10)
    site.valkey.append(turn, [delta("x")])
    await spin()
    await site.later(streams, 10)
    assert reader.comments == 2
    await reader.leave()


async def test_a_reader_that_stalls_is_cut_and_resumes(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    reader.pause()
    site.valkey.append(turn, [delta("unread")])
    await spin()
    await site.later(streams, 59)
    assert streams.count == 1
    await site.later(streams, 2)
    assert streams.count == 0
    assert not reader.complete
    assert reader.task.done()
    site.valkey.finish(turn)
    rest = await (await read_turn(streams, turn, reader.last_id)).to_the_end()
    assert View().apply_all(reader.events + rest).text == {"answer": "unread"}


async def test_a_client_that_leaves_is_noticed_at_once(site, streams, turn):
    for paused in (False, True):
        reader = await read_turn(streams, turn)
        await spin()
        if paused:
            reader.pause()
            site.valkey.append(turn, [delta("x")])
            await spin()
        await reader.leave()
        assert streams.count == 0
        assert len(streams._hub) == 0


async def test_a_client_that_leaves_while_a_store_is_asked(site, streams, turn):
    site.valkey.append(turn, [delta("x")] * 100)
    site.valkey.gate = []
    reader = await read_turn(streams, turn)
    await spin()
    await reader.leave()
    assert streams.count == 0
    for reply in site.valkey.gate:
        if not reply.done():
            reply.set_result(None)
    await streams._tasks.settle()
    assert len(streams._hub) == 0


async def test_a_drain_says_goodbye(site, turn):
    async with site.process() as streams:
        reader = await read_turn(streams, turn)
        other = await read_user(streams)
        opening = await streams.user_stream(request(query="stream_id=x"), caller())
        await spin()
        await streams.shutdown()
        for one in (reader, other, Reader(opening)):
            events = await one.to_the_end()
            assert events[-1].name == "server_shutdown"
            assert events[-1].data["reason"] == "draining"
            assert events[-1].data["retry_ms"] == events[-1].retry_ms
            assert 250 <= events[-1].retry_ms <= 4000
            assert events[-1].id is None
            assert one.complete
        with pytest.raises(Unavailable) as caught:
            await streams.turn_stream(request(), caller(), turn)
        assert caught.value.error == "draining"
        assert caught.value.retry_after_s


async def test_a_drain_does_not_wait_for_a_reader_that_stalls(site, turn):
    async with site.process(StreamSettings(tick_s=3600, drain_s=0.01)) as streams:
        reader = await read_turn(streams, turn)
        await spin()
        reader.pause()
        site.valkey.append(turn, [delta("x")])
        await spin()
        await streams.shutdown()
        assert streams.count == 0
        await reader.to_the_end()
        assert not reader.complete


async def test_the_cap(site, turn):
    async with site.process(StreamSettings(tick_s=3600, max_streams=2)) as streams:
        readers = [await read_turn(streams, turn) for _ in range(2)]
        await spin()
        for open_one in (
            lambda: streams.turn_stream(request(), caller(), turn),
            lambda: streams.user_stream(request(), caller()),
        ):
            with pytest.raises(Unavailable) as caught:
                await open_one()
            assert caught.value.error == "too_many_streams"
        await readers[0].leave()
        await (await read_turn(streams, turn)).leave()
        await readers[1].leave()


async def test_a_source_that_fails_lets_go_of_everything(site, streams, turn, monkeypatch):
    monkeypatch.setattr("kdcube.ingress.streams.projection.sse.KDCubeSse.frame", lambda *_: 1 / 0)
    reader = await read_turn(streams, turn)
    with pytest.raises(ZeroDivisionError):
        await reader.to_the_end()
    assert streams.count == len(streams._hub) == 0

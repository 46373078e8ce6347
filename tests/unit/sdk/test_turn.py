"""What a bundle can do with its turn, by the code that runs it in a host."""

import asyncio
from datetime import UTC, datetime

import pytest

from kdcube.sdk import Bundle, BundleError, HistoryItem, Message, SecretNotGranted, Turn
from kdcube.sdk.testing import run, run_turn
from kdcube.sdk.wire import CREDIT_BYTES, MAX_DELTA_BYTES, Delta

pytestmark = pytest.mark.anyio


def bundle_of(handler) -> Bundle:
    bundle = Bundle("test@1")
    bundle.on_message(handler)
    return bundle


async def test_answer_is_the_concatenation_of_answer_deltas():
    async def handler(turn: Turn) -> str:
        await turn.delta("hmm", marker="thinking")
        await turn.delta("Hello ")
        await turn.delta("")
        await turn.delta("world")
        return "not counted"

    result = await run_turn(bundle_of(handler))

    assert result.outcome == "completed"
    assert result.answer == "Hello world"
    assert result.text == {"thinking": "hmm", "answer": "Hello world"}
    assert len(result.events) == 3


async def test_returned_string_is_the_answer_when_no_delta_was_sent():
    async def handler(turn: Turn) -> str:
        await turn.delta("hmm", marker="thinking")
        return "short answer"

    assert (await run_turn(bundle_of(handler))).answer == "short answer"


async def test_turn_carries_what_the_client_and_the_registry_gave():
    seen: list[Turn] = []

    async def handler(turn: Turn) -> None:
        seen.append(turn)
        assert turn.secret("KEY") == "value"
        with pytest.raises(SecretNotGranted, match=r"OTHER.*registry entry"):
            turn.secret("OTHER")

    result = await run_turn(
        bundle_of(handler),
        "text",
        payload={"a": 1},
        history=[("user", "before"), HistoryItem("assistant", "answered")],
        config={"model": "m"},
        secrets={"KEY": "value"},
        attempt=2,
    )

    assert result.outcome == "completed"
    (turn,) = seen
    assert (turn.id, turn.attempt, turn.text, turn.payload) == ("test-turn", 2, "text", {"a": 1})
    assert turn.user.type == "registered"
    assert [item.text for item in turn.history] == ["before", "answered"]
    assert turn.config["model"] == "m"
    assert turn.attachments == ()


async def test_events_have_the_shapes_of_the_client_protocol():
    async def handler(turn: Turn) -> None:
        await turn.step("search", "Searching", "started", data={"query": "q"})
        await turn.step("search", "Searching", "completed", markdown="*3 hits*")
        assert await turn.cite("Title", "https://example.org", heading="H", quote="Q") == 1
        assert await turn.cite("Other", "https://example.org/2") == 2
        await turn.followups(["And then?"])
        await turn.usage("m", 10, 20)

    result = await run_turn(bundle_of(handler))

    assert result.steps == [
        {"step": "search", "title": "Searching", "status": "started"},
        {"step": "search", "title": "Searching", "status": "completed", "markdown": "*3 hits*"},
    ]
    assert result.citations == [
        {"n": 1, "title": "Title", "uri": "https://example.org", "heading": "H", "quote": "Q"},
        {"n": 2, "title": "Other", "uri": "https://example.org/2"},
    ]
    assert result.followups == ["And then?"]
    assert result.usage == [{"model": "m", "input_tokens": 10, "output_tokens": 20}]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda turn: turn.delta(b"bytes"), TypeError, "must be a str, not bytes"),
        (lambda turn: turn.delta(None), TypeError, "not NoneType"),
        (lambda turn: turn.delta("x", marker="loud"), ValueError, "use one of answer, thinking"),
        (lambda turn: turn.delta("\ud83d"), ValueError, "lone surrogate"),
        (lambda turn: turn.step(""), ValueError, "needs a name"),
        (lambda turn: turn.step("s", status="done"), ValueError, "use one of started"),
        (lambda turn: turn.step("s", data={"x": object()}), TypeError, "must be JSON"),
        (lambda turn: turn.step("s", markdown="x" * 300_000), ValueError, "send a reference instead"),
        (lambda turn: turn.followups("one"), TypeError, "list of str"),
        (lambda turn: turn.usage("m", -1, 0), ValueError, "0 or more"),
    ],
)
async def test_wrong_calls_are_refused_with_a_remedy(call, error, says):
    async def handler(turn: Turn) -> None:
        with pytest.raises(error, match=says):
            await call(turn)
        await turn.delta("goes on")

    result = await run_turn(bundle_of(handler))
    assert result.outcome == "completed", result.error
    assert result.answer == "goes on"


async def test_nothing_is_added_after_the_end():
    kept: list[Turn] = []

    async def handler(turn: Turn) -> None:
        kept.append(turn)

    await run_turn(bundle_of(handler))
    with pytest.raises(ValueError, match="has ended"):
        await kept[0].delta("late")
    with pytest.raises(ValueError, match="has ended"):
        await kept[0].step("late")


async def test_bundle_error_tells_the_user():
    async def handler(turn: Turn) -> None:
        await turn.delta("half")
        raise BundleError("quota_exceeded", "Come back tomorrow.")

    result = await run_turn(bundle_of(handler), state={"n": 1})
    assert result.outcome == "failed"
    assert (result.error.code, result.error.message) == ("quota_exceeded", "Come back tomorrow.")
    assert result.answer == "half"


async def test_bundle_error_in_a_task_group_tells_the_user():
    async def child() -> None:
        raise BundleError("inner", "Told by a child.")

    async def handler(turn: Turn) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    assert (await run_turn(bundle_of(handler))).error.code == "inner"


@pytest.mark.parametrize("error", [RuntimeError("secret detail"), SystemExit(3), asyncio.CancelledError()])
async def test_unexpected_errors_tell_the_operator_only(error):
    async def handler(turn: Turn) -> None:
        raise error

    result = await run_turn(bundle_of(handler))
    assert result.error.code == "bundle_error"
    assert "secret" not in result.error.message
    assert "Traceback" in result.error.detail or "cancelled by its own code" in result.error.detail


async def test_wrong_return_type_fails():
    async def handler(turn: Turn):
        return {"answer": "x"}

    result = await run_turn(bundle_of(handler))
    assert "must return None or a str" in result.error.detail


async def test_state_commits_with_completion_only():
    async def handler(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1
        turn.state["seen_at"] = datetime(2026, 1, 1, tzinfo=UTC)
        if turn.text == "fail":
            raise BundleError("x", "y")

    bundle = bundle_of(handler)
    assert (await run_turn(bundle, state={"count": 1})).state == {"count": 2, "seen_at": "2026-01-01T00:00:00Z"}
    assert (await run_turn(bundle, "fail", state={"count": 1})).state == {"count": 1}


async def test_state_that_is_no_json_fails_the_turn():
    async def handler(turn: Turn) -> None:
        turn.state["x"] = object()

    result = await run_turn(bundle_of(handler))
    assert result.outcome == "failed"
    assert "turn.state must be JSON" in result.error.detail


# ---- credit


async def test_long_delta_is_sent_in_pieces_between_characters():
    text = "a" + "€" * 20_000

    async def handler(turn: Turn) -> None:
        await turn.delta(text)

    result = await run_turn(bundle_of(handler))
    assert result.answer == text
    assert all(event.n_bytes <= MAX_DELTA_BYTES for event in result.events)
    assert len(result.events) == 2


async def test_delta_waits_for_credit_and_control_frames_pass():
    done = []

    async def handler(turn: Turn) -> None:
        async def talk() -> None:
            for _ in range(20):
                await turn.delta("x" * 32_768)
            done.append(True)

        async with asyncio.TaskGroup() as group:
            group.create_task(talk())
            while len(session.answer) < CREDIT_BYTES:
                await asyncio.sleep(0)
            await turn.step("passes")

    async with run(bundle_of(handler), acknowledge=False) as session:
        await session.until(lambda: any(not isinstance(event, Delta) for event in session.events))
        assert len(session.answer) == CREDIT_BYTES
        assert not done
        session.acknowledge(100_000)
        await session.until(lambda: len(session.answer) > CREDIT_BYTES)
        assert len(session.answer) == CREDIT_BYTES + 3 * 32_768
        session.acknowledge(CREDIT_BYTES)
        await session.until(lambda: len(session.answer) >= 2 * CREDIT_BYTES)
        session.acknowledge(CREDIT_BYTES)
        result = await session.result()

    assert done
    assert len(result.answer) == 20 * 32_768


async def test_cancel_releases_who_waits_for_credit():
    released = []

    async def handler(turn: Turn) -> None:
        try:
            await turn.delta("x" * 10 * CREDIT_BYTES)
        except asyncio.CancelledError:
            released.append(bool(turn.cancelled))
            raise

    async with run(bundle_of(handler), acknowledge=False) as session:
        await session.until(lambda: len(session.answer) == CREDIT_BYTES)
        session.cancel()
        assert (await session.result()).outcome == "cancelled"
    assert released == [True]


async def test_an_emitter_that_never_waits_lets_others_run():
    order = []

    async def handler(turn: Turn) -> None:
        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        for _ in range(1000):
            await turn.delta("x")
        order.append("emitter")
        await task

    await run_turn(bundle_of(handler))
    assert order == ["other", "emitter"]


# ---- cancel


async def test_cancel_raises_the_flag_and_then_cancels_the_handler():
    order = []

    async def handler(turn: Turn) -> None:
        async def watch() -> None:
            assert not turn.cancelled
            await turn.cancelled
            order.append(f"flag: {turn.cancelled.reason}")

        watcher = asyncio.create_task(watch())
        await turn.delta("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            await turn.delta(" and stopped")
            raise
        finally:
            await watcher

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        session.cancel("stop button")
        session.cancel("again")
        result = await session.result()

    assert order == ["flag: stop button", "cancelled"]
    assert result.outcome == "cancelled"
    assert result.answer == "started and stopped"


async def test_cancel_before_the_handler_began():
    async def handler(turn: Turn) -> None:
        raise AssertionError("must not run")

    async with run(bundle_of(handler)) as session:
        session.cancel()
        assert (await session.result()).outcome in ("cancelled", "failed")


async def test_handler_that_returns_on_cancel_is_cancelled_all_the_same():
    async def handler(turn: Turn) -> None:
        await turn.delta("x")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        session.cancel()
        assert (await session.result()).outcome == "cancelled"


# ---- inbox


async def test_inbox_gives_steers_in_order():
    taken: list[Message] = []

    async def handler(turn: Turn) -> None:
        assert await turn.inbox.poll() is None
        await turn.delta("ready")
        async for message in turn.inbox:
            taken.append(message)
            if len(taken) == 3:
                break

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        for text in ("one", "two", "three"):
            session.steer(text, {"n": text})
        result = await session.result()

    assert [message.text for message in taken] == ["one", "two", "three"]
    assert taken[0].payload == {"n": "one"}
    assert result.applied_steers == ["one", "two", "three"]
    assert result.bounced_steers == []


async def test_steer_that_is_not_taken_bounces():
    async def handler(turn: Turn) -> None:
        await turn.delta("ready")
        assert (await turn.inbox.get()).text == "one"
        await turn.step("taken")

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        session.steer("one")
        session.steer("two")
        result = await session.result()

    assert result.applied_steers == ["one"]
    assert result.bounced_steers == ["two"]


async def test_steer_that_proc_refuses_is_never_seen():
    async def handler(turn: Turn) -> None:
        await turn.delta("ready")
        while len(turn.inbox) == 0:
            await asyncio.sleep(0)
        assert await turn.inbox.poll() is None
        assert len(turn.inbox) == 0

    async with run(bundle_of(handler), grant_steers=False) as session:
        await session.until(lambda: session.answer)
        session.steer("one")
        result = await session.result()

    assert result.outcome == "completed", result.error
    assert result.bounced_steers == ["one"]


async def test_take_that_is_cancelled_loses_nothing():
    async def handler(turn: Turn) -> None:
        await turn.delta("ready")
        while len(turn.inbox) == 0:
            await asyncio.sleep(0)
        take = asyncio.create_task(turn.inbox.get())
        await asyncio.sleep(0)  # it has asked
        take.cancel()
        message = await turn.inbox.get()
        await turn.delta(message.text)

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        session.steer(" one")
        result = await session.result()

    assert result.answer == "ready one"
    assert result.applied_steers == [" one"]


async def test_steer_that_was_applied_too_late_to_be_taken_bounces():
    async def handler(turn: Turn) -> None:
        await turn.delta("ready")
        while len(turn.inbox) == 0:
            await asyncio.sleep(0)
        take = asyncio.create_task(turn.inbox.get())
        await asyncio.sleep(0)  # it has asked
        take.cancel()

    async with run(bundle_of(handler)) as session:
        await session.until(lambda: session.answer)
        session.steer("one")
        result = await session.result()

    assert result.outcome == "completed"
    assert result.bounced_steers == ["one"]


async def test_listening_task_ends_with_the_turn():
    listeners: list[asyncio.Task[None]] = []

    async def handler(turn: Turn) -> None:
        async def listen() -> None:
            async for _ in turn.inbox:
                pass

        async def wait() -> None:
            await turn.inbox.get()

        listeners.extend((asyncio.create_task(listen()), asyncio.create_task(wait())))
        await asyncio.sleep(0)

    await run_turn(bundle_of(handler))
    await asyncio.wait(listeners)
    assert not listeners[0].cancelled() and listeners[0].exception() is None
    assert listeners[1].cancelled()


async def test_text_of_a_class_that_is_a_string():
    """As LangChain's ``message.text``: what is sent is its text."""

    class Accessor(str):
        __slots__ = ()

    bundle = Bundle("a@1")

    @bundle.on_message
    async def handler(turn: Turn) -> None:
        await turn.step("read", Accessor("Reading"), markdown=Accessor("text"))
        await turn.delta(Accessor("text"))

    result = await run_turn(bundle)
    assert result.answer == "text", result.error
    assert result.steps[0]["markdown"] == "text"

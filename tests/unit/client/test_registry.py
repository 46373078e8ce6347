"""Waiting until a release runs on all procs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from kdcube.client import Client
from kdcube.client.registry import LOOK_S, NotActive, Registry, Told

pytestmark = pytest.mark.anyio


def told(state: str, *procs: tuple[int | None, str | None], active: bool = False, problem: str | None = None) -> Any:
    release = {"bundle_id": "a", "number": 2, "state": state, "origin": "reload", "author": "root", "problem": problem}
    running = [
        {"instance": f"p{n}", "number": number, "version": "c0", "problem": why}
        for n, (number, why) in enumerate(procs)
    ]
    return {"release": release, "active": active, "procs": running, "changed": True}


async def waited(answers: Iterator[Any], on_change: Callable[[Told], None] = lambda _: None) -> Told:
    """What becomes of a reload when the installation answers so, one answer each look."""
    now = 0.0

    async def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=next(answers)))
    async with Client("http://127.0.0.1:1", token="t", transport=transport) as client:
        registry = Registry(client, pause=pause, clock=lambda: now)
        return await registry.active(await registry.reload("a", None), limit_s=4 * LOOK_S, on_change=on_change)


async def test_it_waits_until_all_procs_run_it() -> None:
    seen: list[Told] = []
    answers = [
        told("wanted"),
        told("wanted"),
        told("ready", (1, None), (2, None)),
        told("ready", (2, None), (2, None), active=True),
    ]
    done = await waited(iter(answers), seen.append)
    assert [proc.number for proc in done.procs or ()] == [2, 2]
    assert [(one.release.state, one.active) for one in seen] == [("ready", False), ("ready", True)]


async def test_what_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(NotActive, match=r"bundle\.py:3: it raises"):
        await waited(iter([told("wanted"), told("failed", problem="bundle.py:3: it raises")]))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (told("wanted"), "not within 2 s: no proc has prepared it"),
        (told("ready"), "no proc is live"),
        (told("ready", (2, None), (1, "the server is away")), "p1: the server is away"),
        (told("ready", (None, None)), "p0: it has not taken it"),
    ],
)
async def test_what_takes_too_long_is_told_with_what_is_missing(answer: Any, words: str) -> None:
    with pytest.raises(NotActive, match=words):
        await waited(iter([answer] * 20))

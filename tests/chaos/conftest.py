"""A system that is killed part by part, and comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.scene import Scene
from tests.e2e.client import Gate
from tests.e2e.conftest import TRIAL, Connect, Stack, connect, conversation, gate

__all__ = ["connect", "conversation", "gate"]

POINTS = (
    "ingress.accept.admitted",
    "ingress.accept.committed",
    "proc.start.before",
    "proc.start.after",
    "proc.open.before",
    "proc.open.after",
    "proc.finish.before",
    "proc.finish.after",
    "proc.close.before",
    "proc.close.after",
)
"""Steps of the protocol at which the system can be made to wait, in their order."""
BUNDLE = "trial@1.0.0"
REPEATABLE = "repeatable"
"""The trial bundle as one that allows a second attempt."""


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gate]:
    """By name: closed, whoever comes to the step waits there. All are open between tests."""
    folder = tmp_path_factory.mktemp("points")
    return {name: Gate(folder / name) for name in POINTS}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, points: dict[str, Gate]) -> Iterator[Stack]:
    for point in points.values():
        point.open()
    failpoints = ",".join(f"{name}=pause({point})" for name, point in points.items())
    bundles = {BUNDLE: {"path": str(TRIAL)}, REPEATABLE: {"path": str(TRIAL), "max_attempts": 2}}
    variables = {
        "KDCUBE_FAILPOINTS": failpoints,
        "AGENTIC_BUNDLES_JSON": json.dumps({"default_bundle_id": BUNDLE, "bundles": bundles}),
    }
    stack = Stack(tmp_path_factory.mktemp("chaos"), variables)
    stack.up()
    yield stack
    stack.down()


Enter = Callable[[], Scene]


@pytest.fixture
async def enter(stack: Stack, points: dict[str, Gate], connect: Connect, tmp_path: Path) -> AsyncGenerator[Enter]:
    """Scenes of new users."""
    scenes: list[Scene] = []

    def open_() -> Scene:
        scenes.append(Scene(stack, connect(stack), tmp_path))
        return scenes[-1]

    stack.wait_back()
    yield open_
    for point in points.values():
        point.open()
    for scene in scenes:
        await scene.close()


@pytest.fixture
def scene(enter: Enter) -> Scene:
    return enter()

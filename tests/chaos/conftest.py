"""A system that is killed part by part, and comes back."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.scene import PATIENCE_S, Scene
from tests.chaos.steps import STEPS, Step
from tests.e2e.conftest import TRIAL, Connect, Stack, connect, conversation, gate

__all__ = ["connect", "conversation", "gate"]

BUNDLE = "trial@1.0.0"
REPEATABLE = "repeatable@1.0.0"
"""The trial bundle as one that allows a second attempt."""
SEED = "KDCUBE_SEED"
DEFAULT_SEED = 20_250_301


@pytest.fixture(scope="session")
def seed() -> int:
    """What all choices of the chaos tests come from: ``KDCUBE_SEED=N``, or ``random``; the same each time without."""
    given = os.environ.get(SEED, "")
    return random.SystemRandom().randrange(2**32) if given == "random" else int(given or DEFAULT_SEED)


@pytest.fixture
def choose(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """The choices of one test; when it fails, its output says how they are made again."""
    print(f"{SEED}={seed} pytest {request.node.nodeid}")
    return random.Random(f"{seed} {request.node.name}")


Steps = Mapping[str, Step]


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """By name, for all systems; between tests nothing happens at any."""
    folder = tmp_path_factory.mktemp("steps")
    return {name: Step(folder, name) for name in STEPS}


@contextmanager
def running(folder: Path, steps: Steps, *args: str, **variables: str) -> Iterator[Stack]:
    """A system of its own, with the trial bundles."""
    for step in steps.values():
        step.open()
    bundles = {BUNDLE: {"path": str(TRIAL)}, REPEATABLE: {"path": str(TRIAL), "module": "bundle:repeatable"}}
    failpoints = ",".join(point for step in steps.values() for point in step.failpoints)
    stack = Stack(
        folder,
        {
            "KDCUBE_FAILPOINTS": failpoints,
            "AGENTIC_BUNDLES_JSON": json.dumps({"default_bundle_id": BUNDLE, "bundles": bundles}),
            **variables,
        },
    )
    stack.up(args)
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, steps: Steps) -> Iterator[Stack]:
    """With one proc."""
    with running(tmp_path_factory.mktemp("chaos"), steps) as stack:
        yield stack


Enter = Callable[..., Scene]


@pytest.fixture
async def enter(stack: Stack, steps: Steps, connect: Connect, tmp_path: Path) -> AsyncGenerator[Enter]:
    """Scenes of new users; ``patience_s`` is for all that such a user waits for."""
    scenes: list[Scene] = []

    def open_(patience_s: float = PATIENCE_S) -> Scene:
        scenes.append(Scene(stack, connect(stack), tmp_path, patience_s))
        return scenes[-1]

    stack.wait_back()
    yield open_
    for step in steps.values():
        step.open()
    for scene in scenes:
        await scene.close()


@pytest.fixture
def scene(enter: Enter) -> Scene:
    return enter()

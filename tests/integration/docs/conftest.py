"""The docs bundle over folders of the tests, with the processes that read them and without servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kdcube.docs.bundle import _libraries, bundle
from kdcube.local.docs import docs_entry
from kdcube.local.home import Home
from kdcube.sdk.testing import TurnResult, run_turn

CORPUS = Path(__file__).parent / "corpus"

Ask = Callable[..., Awaitable[TurnResult]]


@pytest.fixture(scope="session")
def corpus_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The corpus, with an index that all tests share."""
    return {
        "folder": str(CORPUS),
        "cache": str(tmp_path_factory.mktemp("corpus")),
        "name": "the handbook",
        "model_times": {"repeat_s": 0.01},
    }


@pytest.fixture(scope="session")
def project_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `kdcube up` gives to the bundle."""
    return dict(docs_entry(None, Home(tmp_path_factory.mktemp("project"))).config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of the test's own."""
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The bundle's config over ``folder``."""
    return {"folder": str(folder), "cache": str(tmp_path / "cache")}


@pytest.fixture(autouse=True)
async def libraries() -> AsyncGenerator[None]:
    """A process ends with its libraries; a test does so, too."""
    yield
    for library in _libraries.values():
        await library.close()
    _libraries.clear()


@pytest.fixture
def ask(corpus_config: dict[str, Any]) -> Ask:
    """``await ask("How ...?")``: a turn of the bundle, over the corpus unless there is another ``config``."""

    async def asked(text: str, config: dict[str, Any] = corpus_config, **options: Any) -> TurnResult:
        return await run_turn(bundle, text, config=config, **options)

    return asked

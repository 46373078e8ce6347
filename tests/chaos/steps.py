"""The steps of the protocol that have a failpoint, taken from the code, and what tests do there."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.e2e.client import Gate

import kdcube

_PATIENCE_S = 60.0
_POLL_S = 0.02


def steps_in(folder: Path) -> list[str]:
    """All names that the code gives to failpoints, in the order in which they stand there."""
    return [name for file in sorted(folder.rglob("*.py")) for name in _steps(ast.parse(file.read_text()))]


def _steps(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called, name = ast.unparse(node.func).rpartition(".")[2].lstrip("_"), node.args[0]
        if called in ("hit", "failpoint"):
            # One that is put together is that of until_done, below.
            yield from [name.value] if isinstance(name, ast.Constant) else _put_together(name)
        elif called == "until_done":
            assert isinstance(name, ast.Constant), f"a failpoint without a name of its own: {ast.unparse(node)}"
            yield from (f"{name.value}.before", f"{name.value}.after")


def _put_together(name: ast.expr) -> Iterable[str]:
    assert ast.unparse(name) in ("f'{name}.before'", "f'{name}.after'"), f"nobody would test {ast.unparse(name)}"
    return ()


ELSEWHERE = {
    "proc.erase.before_commit": ("tests/e2e/test_erasure.py", "tests/integration/proc/test_eraser.py"),
    "proc.erase.before_close": ("tests/integration/proc/test_eraser.py",),
    "proc.git.fetched": ("tests/integration/proc/bundles/test_repository.py",),
    "proc.git.written": ("tests/integration/proc/bundles/test_repository.py",),
    "proc.prepare.tried": ("tests/e2e/test_rollout.py",),
    "proc.prepare.failed": ("tests/e2e/test_rollout.py",),
    "proc.prepare.settled": ("tests/e2e/test_rollout.py",),
    "proc.activate.loaded": ("tests/integration/proc/bundles/test_releases.py",),
    "proc.environment.built": ("tests/integration/proc/bundles/test_environments.py",),
}
"""Steps that no turn comes by, and the tests in which processes die there."""
STEPS = tuple(name for name in dict.fromkeys(steps_in(Path(kdcube.__file__).parent)) if name not in ELSEWHERE)


class Step(Gate):
    """A step at which processes can be made to wait (closed, as a gate), to lose a reply, or to die."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / f"{name}.open")
        self.name = name
        self._orders = {action: folder / f"{name}.{action}" for action in ("crash", "drop")}

    @property
    def failpoints(self) -> Iterator[str]:
        """For KDCUBE_FAILPOINTS."""
        yield f"{self.name}=pause({self})"
        for action, order in self._orders.items():
            yield f"{self.name}={action}({order})"

    def order(self, action: str) -> None:
        """``crash`` or ``drop``: the next process that comes here dies, the next reply here is lost."""
        self._orders[action].touch()

    def acted(self, action: str) -> bool:
        """Whether somebody came here since that was ordered."""
        return not self._orders[action].exists()

    async def wait_acted(self, action: str, patience_s: float = _PATIENCE_S) -> bool:
        """Wait until somebody comes here; False if nobody does."""
        try:
            async with asyncio.timeout(patience_s):
                while not self.acted(action):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    async def pid(self) -> int:
        """Of the process that waits here."""
        await self.reached()
        async with asyncio.timeout(_PATIENCE_S):
            while not (pid := self._reached.read_text()):
                await asyncio.sleep(_POLL_S)
        return int(pid)

    def open(self) -> None:
        """Nothing happens here any more."""
        super().open()
        for order in self._orders.values():
            order.unlink(missing_ok=True)

"""The whole system, started as a user starts it, for tests by HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest
from tests.e2e.client import Client, Gate

import kdcube
from kdcube.local.ports import free_port
from kdcube.local.process import birth_of
from kdcube.local.state import State, read_state
from kdcube.protocol.ids import new_id

_READY_LIMIT_S = 60.0
_POLL_S = 0.05

_KDCUBE = (sys.executable, "-m", "kdcube.cli.main")

USERS = {
    "token-alice": {"sub": "alice", "username": "alice", "email": "alice@example.org", "roles": []},
    "token-bob": {"sub": "bob", "username": "bob", "email": "bob@example.org", "roles": []},
    "token-paid": {"sub": "paula", "username": "paula", "email": "paula@example.org", "roles": ["kdcube:role:paid"]},
    "token-admin": {"sub": "root", "username": "root", "email": "root@example.org", "roles": ["kdcube:role:admin"]},
    # The strangers of tests that want a user with no past: see the fixture ``connect``.
    **{f"token-{n}": {"sub": f"user-{n}", "username": f"user-{n}", "email": "", "roles": []} for n in range(500)},
}
ECHO = Path(kdcube.__file__).parent / "echo"
TRIAL = Path(__file__).parent / "trial"
"""A bundle that tests can hold."""


class Stack:
    """``kdcube up --detach`` in a folder of its own. Sign in with ``Authorization: Bearer token-alice`` (see USERS)."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.home = folder / "home"
        self.port = free_port(1, 2, 3, 10, 11, 20, 30, 31, 32, 33, 40, 41, 50, 70, 71, 80, 90, 91)
        self._auth = folder / "users.json"
        self._auth.write_text(json.dumps(USERS))
        self.signs_in_by_file = "AUTH_PROVIDER" not in variables
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KDCUBE_HOME": str(self.home),
            "KDCUBE_PORT": str(self.port),
            **variables,
        }

    def tell(self, **variables: str) -> None:
        """What depends on the ports, before it is up."""
        self._env |= variables

    def kdcube(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one command against this system."""
        return subprocess.run([*_KDCUBE, *args], env=self._env, capture_output=True, text=True, timeout=120)

    @contextmanager
    def in_foreground(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """Run one command as at a terminal, leading a process group; it is killed if it is still there at the end."""
        command = [*_KDCUBE, *args, "--auth", str(self._auth)]
        with subprocess.Popen(
            command, env=self._env, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def up(self, args: Sequence[str] = ()) -> None:
        """Echo is the default bundle, unless ``args`` name one, or documents. Without ``--metrics`` among them that
        service does not run: its start costs more than most tests.
        """
        default = () if {"--bundle", "--docs"} & set(args) else ("--bundle", str(ECHO))
        auth = ("--auth", str(self._auth)) if self.signs_in_by_file else ()
        metrics = () if "--metrics" in args else ("--no-metrics",)
        done = self.kdcube("up", "--detach", *auth, *args, *default, *metrics)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.logs()}"
        self._instances = self.pids.keys()

    def down(self) -> None:
        """Stop it. Nothing that it has started may stay behind."""
        pids = [*self.pids.values(), *self.host_pids()]
        done = self.kdcube("down")
        assert done.returncode == 0, done.stderr
        assert [pid for pid in pids if birth_of(pid)] == []

    @property
    def state(self) -> State:
        state = read_state(self.home / "state.json")
        assert state is not None, f"nothing runs\n{self.logs()}"
        return state

    @property
    def ingress(self) -> list[str]:
        """The base URL of each ingress process."""
        return [service.url for service in self.state.services if service.name == "ingress"]

    @property
    def pids(self) -> dict[str, int]:
        """By instance: valkey, postgres, ingress-0, ingress-1, proc-0."""
        return {service.instance: service.process.pid for service in self.state.services}

    def host_pids(self, bundle_id: str | None = None) -> list[int]:
        """The processes of a bundle, or of all."""
        found = json.loads(self.kdcube("status", "--json").stdout)
        return [pid for bundle in found["bundles"] if bundle_id in (None, bundle["id"]) for pid in bundle["host_pids"]]

    def signal(self, instance: str, number: signal.Signals) -> int:
        """Send a signal to the process of an instance; returns its pid."""
        pid = self.pids[instance]
        os.kill(pid, number)
        return pid

    def kill(self, instance: str) -> None:
        """kill -9; wait_back() waits until the supervisor has brought it back."""
        self.wait_gone(instance, self.signal(instance, signal.SIGKILL))

    def wait_gone(self, instance: str, pid: int) -> None:
        """Wait until this process of an instance is no more."""
        self._wait_until(lambda: self.pids.get(instance) != pid, f"{instance} is gone")

    def wait_back(self) -> None:
        """Wait until every service runs and is ready."""
        self._wait_until(self._all_ready, "all services are ready")

    def logs(self) -> str:
        """The end of every log."""
        return "".join(f"\n== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.home.glob("logs/*.log")))

    def _all_ready(self) -> bool:
        if self.pids.keys() != self._instances:
            return False
        urls = [service.url for service in self.state.services if service.url.startswith("http://")]
        return all(_answers(f"{url}/ready") for url in urls)

    def attempts(self, what: str = "it works") -> Iterator[int]:
        """Numbers, with a short pause between them, until the caller stops asking; fails when that takes too long."""
        deadline = time.monotonic() + _READY_LIMIT_S
        for attempt in count():
            yield attempt
            assert time.monotonic() < deadline, f"not within {_READY_LIMIT_S} s: {what}{self.logs()}"
            time.sleep(_POLL_S)

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        next(attempt for attempt in self.attempts(what) if condition())


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


StackFactory = Callable[..., Stack]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One system for all tests that do not change it for others (they may kill services: see wait_back)."""
    stack = Stack(tmp_path_factory.mktemp("stack"), {})
    stack.up()
    yield stack
    stack.down()


@pytest.fixture
def new_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackFactory]:
    """Starts a system of the test's own: ``new_stack("--slots", "2", LOG_LEVEL="debug")``."""
    started: list[Stack] = []

    def start(*args: str, **variables: str) -> Stack:
        stack = Stack(tmp_path_factory.mktemp("stack"), variables)
        stack.up(args)
        started.append(stack)
        return stack

    yield start
    for stack in started:
        if (stack.home / "state.json").exists():
            stack.down()


@pytest.fixture(scope="session")
def trial_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As ``stack``, with the trial bundle as the default one."""
    stack = Stack(tmp_path_factory.mktemp("trial"), {})
    stack.up(["--bundle", str(TRIAL)])
    yield stack
    stack.down()


_strangers = count()
Connect = Callable[..., Client]


@pytest.fixture
async def connect() -> AsyncGenerator[Connect]:
    """Opens clients: ``connect(stack)`` for a user who has done nothing yet, or ``connect(stack, "token-alice")``.

    An empty token is nobody's: the client becomes an anonymous user at its first request.
    """
    opened: list[Client] = []

    def open_(stack: Stack, token: str | None = None) -> Client:
        client = Client(stack.ingress, f"token-{next(_strangers)}" if token is None else token or None)
        opened.append(client)
        return client

    yield open_
    for client in opened:
        await client.http.aclose()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds turns; it opens when the test is over."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def conversation() -> str:
    """The id of a conversation that is new."""
    return new_id()

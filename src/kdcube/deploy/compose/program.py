"""Docker and compose, as programs that somebody else has installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcube.deploy.render.compose.rendering import COMPOSE_FILE
from kdcube.protocol.errors import InvalidInput, KDCubeError

_ERROR_CHARS = 2_000


class DockerMissing(KDCubeError):
    """Docker is not installed: https://docs.docker.com/engine/install, or apt-get install docker.io."""


class ComposeMissing(KDCubeError):
    """Docker Compose is not installed: neither `docker compose` nor `docker-compose` is there."""


class DockerFailed(KDCubeError):
    """Docker or compose did not do what it was asked to."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The program, by its path."""

    path: str

    @classmethod
    def find(cls) -> Docker:
        """Raises DockerMissing."""
        found = shutil.which("docker")
        if found is None:
            raise DockerMissing
        return cls(found)

    def output(self, *arguments: str) -> str:
        """What it prints. Raises DockerFailed."""
        return _output([self.path, *arguments])

    def logs(self, container: str, lines: int) -> str:
        """The last lines of a container, of both its outputs. Raises DockerFailed."""
        return _output([self.path, "logs", "--tail", str(lines), container], errors_too=True)


@dataclass(frozen=True, slots=True)
class Compose:
    """Compose for one folder that was rendered. Every method raises DockerFailed when it fails."""

    program: tuple[str, ...]
    folder: Path
    project: str

    @classmethod
    def find(cls, docker: Docker, folder: Path) -> Compose:
        """``docker compose``, else ``docker-compose``. Raises ComposeMissing; InvalidInput: nothing was rendered."""
        return cls(_program(docker), folder, project_of(folder))

    def run(self, *arguments: str) -> None:
        """It tells its progress on standard error."""
        done = subprocess.run(self._command(arguments), stdout=sys.stderr, check=False)
        if done.returncode:
            raise DockerFailed(f"`{' '.join(self._short(arguments))}` failed, with exit code {done.returncode}")

    def output(self, *arguments: str) -> str:
        """What it prints."""
        return _output(self._command(arguments))

    def pass_on(self, *arguments: str) -> int:
        """It has this terminal, until it ends or is ended by Ctrl-C. Its exit code."""
        with subprocess.Popen(self._command(arguments)) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue  # it heard it as well

    def _command(self, arguments: Sequence[str]) -> list[str]:
        given = ("--project-directory", str(self.folder), "--project-name", self.project)
        return [*self.program, *given, "--file", str(self.folder / COMPOSE_FILE), *arguments]

    def _short(self, arguments: Sequence[str]) -> Iterator[str]:
        yield "docker-compose" if len(self.program) == 1 else "docker compose"
        yield from arguments


def project_of(folder: Path) -> str:
    """The project's name, as it was rendered. Raises InvalidInput where nothing was."""
    try:
        lines = (folder / ".env").read_text().splitlines()
    except OSError:
        raise InvalidInput("file", f"nothing was rendered into {folder}; `kdcube compose up` does it") from None
    names = [line.partition("=")[2] for line in lines if line.startswith("COMPOSE_PROJECT_NAME=")]
    if not names:
        raise InvalidInput("file", f"{folder}/.env names no project; `kdcube compose render` writes it")
    return names[0]


def _program(docker: Docker) -> tuple[str, ...]:
    plugin = subprocess.run(
        [docker.path, "compose", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    if plugin.returncode == 0:
        return (docker.path, "compose")
    alone = shutil.which("docker-compose") or shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if alone is None:
        raise ComposeMissing
    return (alone,)


def _output(command: list[str], *, errors_too: bool = False) -> str:
    errors = subprocess.STDOUT if errors_too else subprocess.PIPE
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", check=False)
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())[-_ERROR_CHARS:]
        raise DockerFailed(f"{Path(command[0]).name} failed, with exit code {done.returncode}: {told}")
    return done.stdout

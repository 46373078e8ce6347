"""Real git servers on loopback: git's own http-backend behind a token, and sshd with keys of its own."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pwd import getpwuid
from socket import create_connection, create_server

_ENV = {
    **{"PATH": "/usr/sbin:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
    **{"GIT_AUTHOR_NAME": "ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z"},
    **{"GIT_COMMITTER_NAME": "ada", "GIT_COMMITTER_EMAIL": "ada@example.org"},
    **{"GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"},
}


def git(folder: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env={**_ENV, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Remote:
    """A repository that is written in ``work`` and served from ``bare``."""

    work: Path
    bare: Path

    @classmethod
    def make(cls, folder: Path) -> Remote:
        work, bare = folder / "work", folder / "served" / "bundles.git"
        work.mkdir(parents=True)
        bare.mkdir(parents=True)
        git(work, "init", "-q", "-b", "main")
        git(bare, "init", "-q", "--bare", "-b", "main")
        return cls(work, bare)

    def commit(self, files: dict[str, str] | None = None, *, branch: str = "main", tag: str = "") -> str:
        """The new commit, pushed."""
        for name, text in (files or {}).items():
            place = self.work / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "--allow-empty", "-m", "change")
        git(self.work, "push", "-q", "-f", str(self.bare), f"HEAD:refs/heads/{branch}")
        if tag:
            git(self.work, "tag", "-a", tag, "-m", tag)
            git(self.work, "push", "-q", str(self.bare), f"refs/tags/{tag}")
        return git(self.work, "rev-parse", "HEAD")

    def head(self) -> str:
        return git(self.work, "rev-parse", "HEAD")

    def rewrite(self) -> None:
        """What comes next has no history."""
        git(self.work, "checkout", "-q", "--orphan", "rewritten")

    def gone(self, commit: str) -> None:
        """Nobody finds the commit over there any more."""
        git(self.bare, "reflog", "expire", "--expire=now", "--all")
        git(self.bare, "gc", "-q", "--prune=now")
        assert commit not in git(self.bare, "cat-file", "--batch-all-objects", "--batch-check")


@dataclass
class HttpServer:
    """``token``: what has to be presented; ``away``: it answers nothing, until it is cleared."""

    root: Path
    token: str = ""
    port: int = 0
    requests: list[str] = field(default_factory=list[str])
    presented: list[str] = field(default_factory=list[str])
    away: threading.Event = field(default_factory=threading.Event)
    came: threading.Event = field(default_factory=threading.Event)
    """Somebody came while it was away."""
    back: threading.Event = field(default_factory=threading.Event)
    redirect: str = ""
    """The server that everybody who has signed in is sent to."""
    on_request: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bundles.git"


@contextmanager
def http_server(root: Path, token: str = "") -> Generator[HttpServer]:
    served = HttpServer(root, token)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            served.requests.append(self.path)
            if served.away.is_set():
                served.came.set()
                served.back.wait()
                self.close_connection = True
                return
            given = self.headers.get("Authorization", "")
            if given:
                served.presented.append(base64.b64decode(given.removeprefix("Basic ")).decode())
            if served.token and given.removeprefix("Basic ") != _basic(served.token):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="bundles"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            served.on_request()
            if served.redirect:
                self.send_response(302)
                self.send_header("Location", served.redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = subprocess.run(
                ["git", "http-backend"],
                env={
                    **{"PATH": "/usr/bin:/bin", "GIT_PROJECT_ROOT": str(served.root), "GIT_HTTP_EXPORT_ALL": "1"},
                    **{"REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query},
                    **{"CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1"},
                    **{"HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")},
                    **{"GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "HOME": "/nonexistent"},
                    **{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
                },
                input=body,
                capture_output=True,
                check=False,
            ).stdout
            head, _, content = answer.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        served.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            served.back.set()
            server.shutdown()
            thread.join()


def _basic(token: str) -> str:
    return base64.b64encode(f"x-access-token:{token}".encode()).decode()


@dataclass
class SshServer:
    port: int
    key: Path
    known_hosts: Path
    folder: Path

    def url(self, bare: Path) -> str:
        return f"ssh://{getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self.port}{bare}"


@contextmanager
def ssh_server(folder: Path) -> Generator[SshServer]:
    folder.mkdir(parents=True)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    (folder / "known hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f'ListenAddress 127.0.0.1\nPort {port}\nHostKey "{folder}/host"\nPidFile none\nUsePAM no\nStrictModes no\n'
        f'AuthorizedKeysFile "{folder}/authorized"\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n'
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself up
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log, env=_ENV
        )
        try:
            for _ in range(500):
                try:
                    create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, (folder / "log").read_text()
                    threading.Event().wait(0.02)
            yield SshServer(port, folder / "user", folder / "known hosts", folder)
        finally:
            process.terminate()
            process.wait()

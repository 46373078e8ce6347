"""Packages made on the spot, and an index of them on loopback, as PyPI is one."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str | bytes] | None = None, *, needs: Sequence[str] = ()
) -> Path:
    """A wheel of ``name``, whose module says its version unless ``files`` are given."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    given = dict(files if files is not None else {f"{module}.py": f"version = {version!r}\n"})
    given[f"{info}/METADATA"] = metadata(name, version, needs)
    given[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},,\n" for path in (*given, f"{info}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**given, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), content)
    return wheel


def metadata(name: str, version: str, needs: Sequence[str] = ()) -> str:
    return f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )


BACKEND = """
import base64, io, os, subprocess, sys, time, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return []

def build_wheel(folder, config_settings=None, metadata_directory=None):
{code}
    name = "{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("{module}.py", "environment = " + repr(dict(os.environ)))
        archive.writestr("{module}-{version}.dist-info/METADATA", {metadata!r})
        archive.writestr("{module}-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("{module}-{version}.dist-info/RECORD", "")
    return name
"""


def make_sdist(folder: Path, name: str, version: str, code: str = "pass") -> Path:
    """A source distribution that needs nothing to be built, and runs ``code`` then. Its module has the environment."""
    module, said = name.replace("-", "_"), metadata(name, version)
    indented = "\n".join(f"    {line}" for line in code.strip().splitlines())
    files = {
        "PKG-INFO": said,
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "{version}"\n[build-system]\nrequires = []\n'
        'build-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(code=indented, module=module, version=version, metadata=said),
    }
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{module}-{version}.tar.gz"
    with tarfile.open(place, "w:gz") as archive:
        for path, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"{module}-{version}/{path}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return place


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass
class Index:
    """What ``folder`` holds, by the simple API. With ``user`` only for who signs in. ``asked`` are the paths."""

    folder: Path
    url: str
    user: str = ""
    asked: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda path: None


@contextmanager
def package_index(folder: Path, *, user: str = "") -> Generator[Index]:
    """``user``: ``name:password``. ``url`` has none of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            index.asked.append(self.path)
            index.on_request(self.path)
            if user and self.headers["Authorization"] != f"Basic {base64.b64encode(user.encode()).decode()}":
                self._say(401, b"", ("WWW-Authenticate", 'Basic realm="tests"'))
                return
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "simple":
                links = [
                    f'<a href="/files/{file.name}#sha256={sha256(file)}">{file.name}</a>'
                    for file in sorted(folder.iterdir())
                    if file.name.partition("-")[0].replace("_", "-") == name.strip("/")
                ]
                self._say(200 if links else 404, "".join(links).encode(), ("Content-Type", "text/html"))
            elif (file := folder / name).is_file():
                self._say(200, file.read_bytes())
            else:
                self._say(404, b"")

        def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for header in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(*header)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index = Index(folder, f"http://127.0.0.1:{server.server_port}", user)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()

"""Images for tests of compose where none can be pulled: one file system of Debian's packages with kdcube in it, under
the names of all images. They show what compose makes of them, not what is in the images of a release.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.engine.engine import Engine

ROOT = Path(__file__).parents[3]
BASE, WHOLE = "kdcube-test-system", "kdcube-test-whole"
LABEL = "kdcube-test=compose"
PACKAGES = "python3,ca-certificates,tini,nginx-light,redis-server,postgresql-15,gosu"
SERVICES = {
    "kdcube-chat-ingress": ("kdcube.ingress", 8010),
    "kdcube-chat-proc": ("kdcube.proc", 8020),
    "kdcube-metrics": ("kdcube.metrics", 8090),
    "proxylogin": ("kdcube.proxylogin", 8030),
}
VALKEY, POSTGRES = "kdcube-test-valkey:7.0", "kdcube-test-postgres:15"

_DOCKERFILE = f"""\
FROM {BASE}
COPY site /opt/kdcube/site
COPY health.py postgres.sh kdcube /usr/local/bin/
COPY kdcube.pth /usr/local/lib/python3.11/dist-packages/
ENV PYTHONUNBUFFERED=1 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/lib/postgresql/15/bin
"""
_CHECK = "HEALTHCHECK --interval=2s --timeout=5s --start-period=60s CMD python3 /usr/local/bin/health.py"


def build(engine: Engine, release: str) -> None:
    """Everything under its name, with the tag ``release`` where it is ours. The file system is made once an engine."""
    if not engine.run("images", "--quiet", BASE):
        _import_system(engine)
    with tempfile.TemporaryDirectory(prefix="kdcube-images-", dir="/var/tmp") as made:
        context = Path(made)
        _install(context / "site")
        for name in ("health.py", "postgres.sh"):
            shutil.copy(Path(__file__).with_name(name), context)
        (context / "kdcube").write_text('#!/bin/sh\nexec python3 -P -m kdcube.cli.main "$@"\n')
        (context / "kdcube").chmod(0o755)
        (context / "kdcube.pth").write_text("/opt/kdcube/site\n")
        (context / "Dockerfile").write_text(_DOCKERFILE)
        engine.run("build", "--quiet", "--network", "none", "--label", LABEL, "--tag", WHOLE, made)
    for image, (module, port) in SERVICES.items():
        entry = f'ENTRYPOINT ["tini", "--", "python3", "-P", "-m", "{module}"]'
        _derive(engine, f"{image}:{release}", f"{entry}\n{_CHECK} http://127.0.0.1:{port}/ready\n")
    proxy = 'ENTRYPOINT ["tini", "--", "nginx", "-e", "stderr", "-c", "/etc/kdcube/nginx.conf"]'
    _derive(engine, f"kdcube-web-proxy:{release}", f"{proxy}\n{_CHECK} http://127.0.0.1:${{KDCUBE_PROXY_PORT}}/ready\n")
    _derive(engine, VALKEY, 'ENTRYPOINT ["redis-server"]\n')
    _derive(engine, POSTGRES, 'ENTRYPOINT ["/usr/local/bin/postgres.sh"]\n')


def _derive(engine: Engine, name: str, lines: str) -> None:
    engine.run("build", "--quiet", "--label", LABEL, "--tag", name, "-", given=f"FROM {WHOLE}\n{lines}")


def _import_system(engine: Engine) -> None:
    if shutil.which("debootstrap", path=engine.variables["PATH"]) is None:
        pytest.fail("debootstrap is not installed: apt-get install debootstrap")
    with tempfile.TemporaryDirectory(prefix="kdcube-system-", dir="/var/tmp") as made:
        command = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", made)
        done = subprocess.run(command, env=engine.variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2_000:]
        with subprocess.Popen(("tar", "-C", made, "-c", "."), stdout=subprocess.PIPE) as packed:
            subprocess.run((engine.client, "import", "-", BASE), env=engine.variables, stdin=packed.stdout, check=True)


def _install(site: Path) -> None:
    """As for Debian's Python, which is older than what some packages do without."""
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory(prefix="kdcube-wheel-") as made:
        subprocess.run((uv, "build", "--quiet", "--wheel", "--out-dir", made, str(ROOT)), check=True)
        (wheel,) = Path(made).glob("*.whl")
        extras = f"kdcube[ingress,proc,metrics,proxylogin] @ {wheel.as_uri()}"
        target = ("--python-version", "3.11.2", "--target", str(site))
        subprocess.run((uv, "pip", "install", "--quiet", *target, extras), check=True)

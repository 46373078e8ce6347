"""Environments of bundles, built by uv from an index on loopback; PyPI has no part in it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import idna
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from tests.eventually import eventually
from tests.integration.proc.bundles.conftest import Hosts, is_alive, job
from tests.integration.proc.bundles.packages import make_sdist, make_wheel, package_index, sha256
from uv import find_uv_bin

from kdcube.config.bundles import BundleEntry
from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments.environments import Environments, open_environments
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.mark import RECORD
from kdcube.proc.bundles.host import BundleLoadError
from kdcube.proc.bundles.jobs import Completed
from kdcube.proc.bundles.pool import open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.sources.source import Code

pytestmark = pytest.mark.anyio

CODE = """
from kdcube.sdk import Bundle
bundle = Bundle("ID")

@bundle.on_message
async def answer(turn):
    import MODULE
    await turn.delta(str(MODULE.VALUE))
"""


def project(*dependencies: str, more: str = "") -> str:
    return f'[project]\nname = "mine"\nversion = "1"\ndependencies = {json.dumps(dependencies)}\n{more}'


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A few packages: ``alpha`` in two versions, of which ``beta`` bears only the old one."""
    folder = tmp_path_factory.mktemp("packages")
    make_wheel(folder, "alpha", "1.0")
    make_wheel(folder, "alpha", "2.0")
    make_wheel(folder, "beta", "1.0", needs=["alpha<2"])
    make_wheel(folder, "oldspec", "1.0", needs=["msgspec<0.19"])
    make_wheel(folder, "msgspec", "0.18.6")
    with package_index(folder) as index:
        yield index


@pytest.fixture
def settings(index):
    """``settings(**more)``: from the index alone."""

    def make(**more) -> EnvironmentSettings:
        given = {"UV_DEFAULT_INDEX": SecretStr(f"{index.url}/simple/")}
        return EnvironmentSettings(**{"indexes": given, **more})

    return make


@pytest.fixture
def write(tmp_path):
    """``write(name, files...)``: the folder of a bundle."""

    def write(name: str = "mine", /, **files: str) -> str:
        folder = tmp_path / "bundles" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return str(folder)

    return write


@pytest.fixture
def open_(tmp_path, settings):
    """``with open_(**settings) as environments``: in one folder, again and again."""
    return lambda **more: open_environments(tmp_path / "environments", settings(**more))


def built(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "environments" / "built").iterdir())


async def prepared(environments: Environments, folder: str):
    return await environments.prepared(Code(folder, "1"), BundleEntry(id="mine@1", path=folder))


async def has(environments: Environments, folder: str, module: str = "alpha", value: str = "version") -> str:
    """What a module says in the environment."""
    interpreter = await prepared(environments, folder)
    code = f"import {module}; print({module}.{value})"
    try:
        done = subprocess.run(
            [interpreter.path, "-P", "-c", code], capture_output=True, text=True, env={}, check=False, cwd="/"
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    finally:
        interpreter.release()


# ---- what decides


async def test_a_bundle_without_such_files_runs_with_the_python_of_proc(open_, write, tmp_path):
    with open_() as environments:
        for files in ({"bundle__py": ""}, {"pyproject__toml": "[tool.ruff]\n"}):
            assert (await prepared(environments, write(**files))).path == sys.executable
        one_file = Path(write(bundle__py="")) / "bundle.py"
        assert (await prepared(environments, str(one_file))).path == sys.executable
    assert not (tmp_path / "environments").exists()


async def test_a_project_is_resolved_once_and_built_again_as_it_was(open_, write, index, tmp_path):
    folder = write(pyproject__toml=project("alpha", "kdcube[ingress]>=0.1"))
    with open_() as environments:
        assert await has(environments, folder) == "2.0"
    write(pyproject__toml=project("alpha", "kdcube[ingress]>=0.1", more='description = "new"\n'))
    asked = len(index.asked)
    with open_() as environments:
        assert await has(environments, folder) == "2.0"
        assert len(index.asked) == asked, "it is here, and what it depends on has not changed"
    make_wheel(index.folder, "alpha", "2.1")
    try:
        (found,) = built(tmp_path)
        subprocess.run(["chmod", "-R", "u+w", found], check=True)
        shutil.rmtree(found)
        with open_() as environments:
            assert await has(environments, folder) == "2.0"
        write(pyproject__toml=project("alpha>=2"))
        with open_() as environments:
            assert await has(environments, folder) == "2.1"
    finally:
        (index.folder / "alpha-2.1-py3-none-any.whl").unlink()


async def test_a_lock_of_uv_is_installed_as_it_is(open_, write, index, tmp_path):
    folder = write(pyproject__toml=project("alpha", more='[dependency-groups]\ndev = ["beta"]\n'))
    variables = {
        "UV_DEFAULT_INDEX": f"{index.url}/simple/",
        "UV_CACHE_DIR": str(tmp_path / "c"),
        "PATH": "/usr/bin:/bin",
    }
    for constraint in ("alpha<2", "alpha"):
        write(pyproject__toml=project(constraint))
        subprocess.run(
            [find_uv_bin(), "lock", "-q", "--no-config", "--python", sys.executable],
            cwd=folder, env=variables, check=True,
        )  # fmt: skip
    with open_() as environments:
        assert await has(environments, folder) == "1.0"
    with open_(indexes={}) as environments:  # the addresses in the lock
        shutil.rmtree(tmp_path / "environments", ignore_errors=True)
        assert await has(environments, folder) == "1.0"


async def test_locks_in_other_formats(open_, write, index):
    old = index.folder / "alpha-1.0-py3-none-any.whl"
    hashed = f"alpha==1.0 --hash=sha256:{sha256(old)}"
    with open_() as environments:
        folder = write("hashed", requirements__txt=f"# locked\n{hashed}\nkdcube==0.1.0 --hash=sha256:{'0' * 64}\n")
        assert await has(environments, folder) == "1.0"
        pylock = (
            'lock-version = "1.0"\ncreated-by = "tests"\n\n'
            '[[packages]]\nname = "alpha"\nversion = "1.0"\n[[packages.wheels]]\n'
            f'url = "https://elsewhere.example.org/{old.name}"\nhashes = {{ sha256 = "{sha256(old)}" }}\n\n'
            '[[packages]]\nname = "kdcube"\nversion = "0.1.0"\ndirectory = { path = "../kdcube" }\n'
        )
        assert await has(environments, write("pylock", pylock__toml=pylock)) == "1.0"
        assert await has(environments, write("plain", requirements__txt="alpha<2\n")) == "1.0"
        wrong = write("wrong", requirements__txt=hashed[:-4] + "0000\n")
        with pytest.raises(EnvironmentNotBuilt, match=r"(?is)hash mismatch.*requirements.txt"):
            await prepared(environments, wrong)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"uv__lock": ""}, r"pyproject.toml that it was made from is not beside it \(.*uv.lock\)"),
        ({"pyproject__toml": "[project\n"}, r"no TOML: .*pyproject.toml, line 1\)"),
        ({"pyproject__toml": project(more='dynamic = ["dependencies"]')}, r"dynamic.*pyproject.toml, line 5\)"),
        ({"pyproject__toml": project("a @ git+https://h/a")}, r"from indexes.*line 4\)"),
        (
            {"pyproject__toml": project("a", more='[tool.uv.sources]\na = { path = "../a" }\n')},
            r"a has a source.*line 6",
        ),
        ({"pyproject__toml": project("a", more='[[tool.uv.index]]\nurl = "https://h/"\n')}, r"has index: lock it"),
        ({"pyproject__toml": project("a", more='[tool.uv.sources]\na = { index = "x" }\n')}, r"a has an index of its"),
        (
            {"pyproject__toml": project("a"), "uv__lock": "version = 1\n"},
            r"older than pyproject.toml and lacks a:.*uv.lock",
        ),
        ({"requirements__txt": "alpha\n--index-url https://h/\n"}, r"--index-url is not for bundles.*line 2\)"),
        ({"requirements__txt": "alpha \\\n  >1\n-e .\n"}, r"-e is not for bundles.*line 3\)"),
        ({"requirements__txt": "./a.whl\n"}, r"'./a.whl'.*line 1\)"),
        ({"pylock__toml": 'packages = [{name = "a", vcs = {url = "x"}}]'}, r"a comes from a folder or from version"),
        ({"pylock__toml": 'packages = [{name = "a", version = "1", wheels = [{}]}]'}, r"a has no hashes"),
    ],
)
async def test_what_is_refused_is_told_with_the_file(open_, write, files, told):
    with open_() as environments, pytest.raises(EnvironmentNotBuilt, match=told):
        await prepared(environments, write(**files))


async def test_a_clash_is_told_in_the_words_of_the_resolver(open_, write):
    with open_() as environments:
        with pytest.raises(EnvironmentNotBuilt) as told:
            await prepared(environments, write(pyproject__toml=project("beta", "alpha>=2")))
        assert "beta" in told.value.reason and "alpha<2" in told.value.reason
        assert told.value.file is not None and told.value.file.name == "pyproject.toml"
        with pytest.raises(EnvironmentNotBuilt, match="nothing-like-it was not found"):
            await prepared(environments, write(pyproject__toml=project("nothing-like-it")))
        with pytest.raises(EnvironmentNotBuilt, match=r"needs Python >=4.*pyproject.toml, line 5"):
            await prepared(environments, write(pyproject__toml=project("alpha", more='requires-python = ">=4"\n')))
        assert not list((await asyncio.to_thread(lambda: Path(environments._store._built))).iterdir())


async def test_msgspec_is_proc_s_own_or_one_that_the_sdk_can_use(open_, write, index):
    import msgspec

    with open_() as environments:
        folder = write(pyproject__toml=project("alpha"))
        assert await has(environments, folder, "msgspec", "__version__") == msgspec.__version__
        assert "No module named" in await has(environments, folder, "asyncpg")
        assert "No module named" in await has(environments, folder, "uvloop")
        with pytest.raises(EnvironmentNotBuilt, match=r"oldspec.*msgspec"):
            await prepared(environments, write(pyproject__toml=project("oldspec")))
        wheel = index.folder / "msgspec-0.18.6-py3-none-any.whl"
        pinned = f"msgspec==0.18.6 --hash=sha256:{sha256(wheel)}\n"
        with pytest.raises(EnvironmentNotBuilt, match=r"pins msgspec 0.18.6, and the SDK needs msgspec>=0.22"):
            await prepared(environments, write("pinned", requirements__txt=pinned))


# ---- in hosts


@asynccontextmanager
async def hosts(tmp_path: Path, environments: Environments, **folders: str):
    ids = {f"{name}@1": folder for name, folder in folders.items()}
    releases = {id_: BundleRelease(1, BundleEntry(id=id_, path=folder)) for id_, folder in ids.items()}
    changed = asyncio.Event()
    async with open_host_pool(
        releases, slots=8, run_dir=tmp_path / "run", clock=time.monotonic,
        on_change=changed.set, environments=environments,
    ) as pool:  # fmt: skip
        yield Hosts(pool, changed)


async def answer(hosts: Hosts, bundle_id: str) -> str:
    await hosts.until(lambda: bundle_id in hosts.pool.room())
    run, outcome = await hosts.outcome(job(bundle_id=bundle_id))
    assert outcome == Completed()
    return run.answer


async def test_two_bundles_with_two_versions_of_a_real_library_side_by_side(open_, write, index, tmp_path):
    """idna as it is installed here, and as pip brings its own."""
    (bundled,) = (Path(sys.base_prefix) / "lib").glob("python3*/ensurepip/_bundled/pip-*.whl")
    new, old = idna.__version__, _vendored(bundled, index.folder)
    files = {f"idna/{file.name}": file.read_bytes() for file in Path(idna.__file__).parent.glob("*.py")}
    make_wheel(index.folder, "idna", new, files)
    code = CODE.replace("MODULE", "idna").replace("VALUE", "__version__")
    folders = {
        name: write(name, bundle__py=code.replace("ID", f"{name}@1"), pyproject__toml=project(f"idna=={version}"))
        for name, version in (("one", new), ("two", old))
    }
    with open_() as environments:
        async with hosts(tmp_path, environments, **folders) as running:
            assert (await answer(running, "one@1"), await answer(running, "two@1")) == (new, old)
            assert new != old and len(built(tmp_path)) == 2
            assert await answer(running, "one@1") == new


def _vendored(pip: Path, folder: Path) -> str:
    import zipfile

    with zipfile.ZipFile(pip) as archive:
        start = "pip/_vendor/idna/"
        files = {
            f"idna/{name[len(start) :]}": archive.read(name) for name in archive.namelist() if name.startswith(start)
        }
    version = files["idna/package_data.py"].decode().split("'")[1]
    make_wheel(folder, "idna", version, files)
    return version


async def test_a_bundle_whose_environment_cannot_be_built_is_unavailable_and_the_others_are_served(
    open_, write, tmp_path
):
    code = CODE.replace("MODULE", "os").replace("VALUE", "getpid()")
    bad = write("bad", bundle__py=code.replace("ID", "bad@1"), pyproject__toml=project("beta", "alpha>=2"))
    good = write("good", bundle__py=code.replace("ID", "good@1"))
    with open_() as environments:
        async with hosts(tmp_path, environments, bad=bad, good=good) as running:
            assert (await answer(running, "good@1")).isdigit()
            await running.until(lambda: any("cannot be built" in (s.unavailable or "") for s in running.pool.status()))
            told = next(status.unavailable for status in running.pool.status() if status.id == "bad@1")
            assert "alpha" in told and "pyproject.toml" in told


async def test_a_reload_with_another_environment_and_one_that_fails(open_, write, tmp_path):
    code = CODE.replace("MODULE", "alpha").replace("VALUE", "version").replace("ID", "mine@1")
    folder = write(bundle__py=code, pyproject__toml=project("alpha<2"))
    with open_() as environments:
        async with hosts(tmp_path, environments, mine=folder) as running:
            assert await answer(running, "mine@1") == "1.0"
            write(pyproject__toml=project("alpha>=2"))
            await running.pool.reload("mine@1")
            assert await answer(running, "mine@1") == "2.0"
            write(pyproject__toml=project("alpha>=3"))
            with pytest.raises(BundleLoadError, match="its environment cannot be built"):
                await running.pool.reload("mine@1")
            assert await answer(running, "mine@1") == "2.0"


# ---- code that runs while a package is built


async def test_a_source_distribution_is_built_in_a_clean_environment(open_, write, index, monkeypatch):
    make_sdist(index.folder, "gamma", "1.0")
    monkeypatch.setenv("POSTGRES_PASSWORD", "hunter2")
    with open_() as environments:
        folder = write(pyproject__toml=project("gamma"))
        seen = await has(environments, folder, "gamma", "environment")
        assert "hunter2" not in seen and str(Path.home()) not in seen.replace(str(index.folder), "")
    make_sdist(index.folder, "iota", "1.0")
    with open_(no_build=True) as environments, pytest.raises(EnvironmentNotBuilt, match=r"iota.*UV_NO_BUILD=0 allows"):
        await prepared(environments, write("wheels", pyproject__toml=project("iota")))


LEAVES = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(PLACE, "w").write(str(os.getpid()))
        os.closerange(0, 256)  # else uv waits for the end of its output
        time.sleep(3600)
    os._exit(0)
while not os.path.exists(PLACE) or not open(PLACE).read():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("code", "bounds", "told"),
    [
        ("time.sleep(3600)", {"timeout_s": 4.0}, r"longer than 4 s \(KDCUBE_ENVIRONMENT_TIMEOUT_SEC\)"),
        ("[os.fork() for _ in range(8)]; time.sleep(3600)", {"max_processes": 40}, "more than 40 processes"),
        (
            "held = bytearray(os.urandom(1 << 20) * 400); time.sleep(3600)",
            {"max_memory_bytes": 300 << 20},
            "300 MiB of memory",
        ),
        ("open('big', 'wb').write(bytes(8 << 20))", {"max_bytes": 4 << 20}, r"(?i)too large|larger than"),
        ("sys.exit('no ' + 'words ' * 100_000)", {}, r"(?s)no words"),
    ],
)
async def test_code_that_runs_in_a_build_is_bounded(open_, write, index, tmp_path, code, bounds, told):
    name = f"delta{abs(hash(code)) % 10_000}"
    make_sdist(index.folder, name, "1.0", f"{LEAVES.replace('PLACE', repr(str(tmp_path / 'pid')))}\n{code}")
    with open_(**bounds) as environments:
        with pytest.raises(EnvironmentNotBuilt, match=told) as error:
            await prepared(environments, write(pyproject__toml=project(name)))
        assert len(str(error.value)) < 6_000
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert built(tmp_path) == []


# ---- credentials


async def test_credentials_are_in_the_environment_of_uv_alone(open_, write, tmp_path, index):
    make_wheel(tmp_path / "private", "epsilon", "1.0")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\n")
    netrc.chmod(0o600)
    folder, seen = write(pyproject__toml=project("epsilon")), []
    with package_index(tmp_path / "private", user="ada:s3cret") as private, capture_logs() as logs:
        private.on_request = lambda path: seen.append(
            "".join(place.read_text() for place in Path("/proc").glob("[0-9]*/cmdline") if place.exists())
        )
        url = f"{private.url}/simple/".replace("://", "://ada:s3cret@")
        with open_(indexes={"UV_DEFAULT_INDEX": SecretStr(url)}) as environments:
            assert await has(environments, folder, "epsilon") == "1.0"
            with pytest.raises(EnvironmentNotBuilt) as told:
                await prepared(environments, write(pyproject__toml=project("epsilon>=2")))
        shutil.rmtree(tmp_path / "environments", ignore_errors=True)
        given = {"UV_DEFAULT_INDEX": SecretStr(f"{private.url}/simple/")}
        with open_(indexes=given, netrc=netrc) as environments:
            assert await has(environments, write(pyproject__toml=project("epsilon")), "epsilon") == "1.0"
    assert seen and not any("s3cret" in arguments for arguments in seen)
    assert "s3cret" not in str(told.value) + repr(given) + repr(logs)
    for place in (tmp_path / "environments").rglob("*"):
        assert not place.is_file() or b"s3cret" not in place.read_bytes(), place


async def test_offline_with_wheels_in_a_folder(open_, write, tmp_path):
    make_wheel(tmp_path / "wheels", "zeta", "1.0")
    links = {"UV_FIND_LINKS": SecretStr(str(tmp_path / "wheels"))}
    with open_(indexes=links, offline=True) as environments:
        assert await has(environments, write(pyproject__toml=project("zeta")), "zeta") == "1.0"
        with pytest.raises(EnvironmentNotBuilt, match="alpha"):
            await prepared(environments, write(pyproject__toml=project("alpha")))


# ---- on the disk

BUILDER = """
import asyncio, sys
from pathlib import Path
from pydantic import SecretStr
from kdcube.config.bundles import BundleEntry
from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments.environments import open_environments
from kdcube.proc.bundles.sources.source import Code
from kdcube.telemetry import failpoints
failpoints.install(sys.argv[4])
settings = EnvironmentSettings(indexes={"UV_DEFAULT_INDEX": SecretStr(sys.argv[2])})

async def main():
    with open_environments(Path(sys.argv[1]), settings) as environments:
        entry = BundleEntry(id="mine@1", path=sys.argv[3])
        print((await environments.prepared(Code(sys.argv[3], "1"), entry)).path)

asyncio.run(main())
"""


@pytest.fixture
def builder(tmp_path, index):
    """Another proc that builds: ``builder(folder, failpoint)`` is how it is started."""

    def arguments(folder: str, failpoint: str) -> list[str]:
        place = str(tmp_path / "environments")
        return [sys.executable, "-c", BUILDER, place, f"{index.url}/simple/", folder, failpoint]

    return arguments


async def test_a_builder_that_is_killed_leaves_nothing_half_done(open_, write, builder, tmp_path):
    folder = write(pyproject__toml=project("alpha"))
    done = await asyncio.to_thread(
        lambda: subprocess.run(builder(folder, "proc.environment.built=crash"), capture_output=True, check=False)
    )
    assert done.returncode == -signal.SIGKILL
    assert [place.name[0] for place in built(tmp_path)] == ["."]
    with open_() as environments:
        assert await has(environments, folder) == "2.0"
    assert [place.name[0] for place in built(tmp_path)] != ["."] and len(built(tmp_path)) == 1


def there(place: Path) -> Callable[[], Awaitable[bool]]:
    """Written by another process, which nobody can be told of."""

    async def ask() -> bool:
        return place.exists()

    return ask


def written(place: Path) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return place.exists() and bool(place.read_text())

    return ask


async def test_uv_ends_with_the_proc_that_was_killed(write, builder, tmp_path, index):
    place = tmp_path / "pid"
    make_sdist(index.folder, "eta", "1.0", f"open({str(place)!r}, 'w').write(str(os.getpid())); time.sleep(3600)")
    folder = write(pyproject__toml=project("eta"))
    with subprocess.Popen(builder(folder, ""), stderr=subprocess.DEVNULL) as process:
        await eventually(written(place), "the build runs")
        process.kill()
    pid = int(place.read_text())

    async def ended() -> bool:
        return not is_alive(pid)

    await eventually(ended, "the build has ended")


async def test_two_procs_that_want_the_same_build_it_once(open_, write, builder, tmp_path):
    folder, go = write(pyproject__toml=project("alpha")), tmp_path / "go"
    arguments = builder(folder, f"proc.environment.built=pause({go})")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as other, open_() as environments:
        await eventually(there(go.with_name("go.reached")), "it is built")
        with open_(timeout_s=0.3) as impatient, pytest.raises(EnvironmentNotBuilt, match="another process builds"):
            await prepared(impatient, folder)
        waiting = asyncio.create_task(prepared(environments, folder))
        go.touch()
        said, _ = await asyncio.to_thread(other.communicate)
        assert (await waiting).path == said.decode().split()[-1]
        (await waiting).release()
    assert len(built(tmp_path)) == 1


async def test_a_proc_that_leaves_does_not_wait_for_a_build(open_, write, index, tmp_path):
    place = tmp_path / "pid"
    make_sdist(index.folder, "theta", "1.0", f"open({str(place)!r}, 'w').write(str(os.getpid())); time.sleep(3600)")
    with open_() as environments:
        waiting = asyncio.create_task(prepared(environments, write(pyproject__toml=project("theta"))))
        await eventually(written(place), "the build runs")
        waiting.cancel()
    assert not is_alive(int(place.read_text()))
    assert built(tmp_path) == []


async def test_what_nobody_runs_is_removed_and_what_somebody_runs_stays(open_, write, tmp_path, monkeypatch):
    from kdcube.proc.bundles.environments import store

    monkeypatch.setattr(store, "KEPT_ENVIRONMENTS", 1)
    folders = [write(f"b{n}", requirements__txt=f"alpha<{n + 3}\n") for n in range(4)]
    with open_() as environments:
        held = await prepared(environments, folders[0])
        for folder in folders[1:]:
            (await prepared(environments, folder)).release()
        assert len(built(tmp_path)) == 2
        assert Path(held.path).exists()
        held.release()
        held.release()
        assert await has(environments, folders[1]) == "2.0"
        assert not Path(held.path).exists() or len(built(tmp_path)) == 2


async def test_a_full_disk_is_told(open_, write, monkeypatch, tmp_path):
    from kdcube.proc.bundles.environments import store

    folder = write(pyproject__toml=project("alpha"))
    monkeypatch.setattr(store, "MIN_FREE_BYTES", 1 << 60)
    with open_() as environments, pytest.raises(EnvironmentNotBuilt, match="MiB are free on the disk"):
        await prepared(environments, folder)
    (tmp_path / "environments").rename(tmp_path / "elsewhere")
    (tmp_path / "environments").write_text("no folder")
    with open_() as environments, pytest.raises(EnvironmentNotBuilt, match="environments"):
        await prepared(environments, folder)


async def test_baked_environments_are_taken_and_nothing_is_written(open_, write, tmp_path, index):
    folder = write(requirements__txt="alpha<2\n")
    registry = {"bundles": {"mine@1": {"path": folder}, "plain@1": {"path": write("plain", bundle__py="")}}}
    variables = {"UV_DEFAULT_INDEX": f"{index.url}/simple/", "AGENTIC_BUNDLES_JSON": json.dumps(registry)}
    command = [sys.executable, "-m", "kdcube.proc.bundles.environments", str(tmp_path / "baked")]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 0, done.stderr
    assert "plain@1: names no packages" in done.stdout
    assert sorted(place.name for place in (tmp_path / "baked").iterdir()) == ["built", "locks", "resolutions"]
    with open_(baked=tmp_path / "baked", indexes={}, offline=True) as environments:
        assert await environments.ready(BundleEntry(id="mine@1", path=folder))
        assert await has(environments, folder) == "1.0"
        found = await prepared(environments, folder)
        assert json.loads((Path(found.path).parents[1] / RECORD).read_bytes())["kind"] == "requirements.txt"
        found.release()
    assert not (tmp_path / "environments").exists()


async def test_a_bundle_cannot_change_its_environment_by_accident(open_, write):
    with open_() as environments:
        found = await prepared(environments, write(requirements__txt="alpha\n"))
        site = next(Path(found.path).parents[1].glob("lib/python3*/site-packages"))
        for place in (site, site / "alpha.py"):
            assert not place.stat().st_mode & 0o222, place
        assert (site / "alpha.py").stat().st_nlink == 1, "it is shared with uv's cache, and with other environments"
        assert os.stat(found.path).st_mode & 0o111
        found.release()

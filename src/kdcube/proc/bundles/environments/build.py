"""Builds one environment: packages are resolved or read from a lock, installed by uv, and the SDK is put beside them.

The SDK is a link to the ``kdcube`` package that proc runs, and msgspec, which it needs, a copy of proc's own unless the
bundle's packages bring one. Nothing else of proc can be imported there.
"""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import kdcube
from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.locked import (
    OURS,
    as_requirements,
    check_lock,
    check_packages,
    requirements_without_ours,
    without_ours,
)
from kdcube.proc.bundles.environments.uv import Uv
from kdcube.proc.bundles.environments.wanted import Kind, Wanted

_TRY_S = 60.0
_NEEDED = "msgspec"


def build(
    wanted: Wanted, environment: Path, uv: Uv, work: Path, settings: EnvironmentSettings, resolution: bytes | None
) -> bytes:
    """Fills ``environment``; ``work`` is an empty folder for what is needed meanwhile. Blocks.

    ``resolution``: what was chosen before, for a kind that leaves a choice. Returns what was installed. Raises
    EnvironmentNotBuilt, OSError.
    """
    only_wheels = ("--no-build",) if settings.no_build else ()
    for name, text in wanted.texts.items():
        (work / name).write_bytes(text)
    if resolution is None:
        packages, text = _packages(wanted, uv, work, settings)
    else:
        packages, text = work / "resolved.txt", resolution
        packages.write_bytes(text)
    uv.run("venv", "--relocatable", "--no-project", "--python", sys.executable, str(environment))
    python = environment / "bin" / "python"
    if text.strip():
        hashes = () if packages.suffix == ".toml" else ("--require-hashes",)
        uv.run(
            *("pip", "sync", "--python", str(python), *hashes, *only_wheels, "--compile-bytecode", str(packages)),
            blamed=wanted.file,
            remote=True,
        )
    _add_sdk(wanted, environment)
    _try_out(wanted, python, work)
    return text


def _packages(wanted: Wanted, uv: Uv, work: Path, settings: EnvironmentSettings) -> tuple[Path, bytes]:
    """A file that names every package with its version and hashes, and what it says."""
    pylock, resolved = work / "pylock.toml", work / "resolved.txt"
    only_wheels = ("--no-build",) if settings.no_build else ()
    match wanted.kind:
        case Kind.UV_LOCK:
            check_lock(wanted.texts["uv.lock"], wanted.file, wanted.texts["pyproject.toml"])
            uv.run(
                *("export", "--frozen", "--no-default-groups", "--no-emit-project", "--no-emit-package", OURS),
                *("--format", "pylock.toml", "--output-file", str(pylock), "--python", sys.executable),
                blamed=wanted.file,
            )
            text = pylock.read_bytes()
        case Kind.PYLOCK:
            text = without_ours(wanted.texts[pylock.name])
            pylock.write_bytes(text)
        case Kind.HASHED:
            text = requirements_without_ours(wanted.texts["requirements.txt"])
            resolved.write_bytes(text)
            return resolved, text
        case Kind.PROJECT | Kind.REQUIREMENTS:
            (work / "overrides.txt").write_text(f'{OURS} ; python_version < "3"\n')
            (work / "constraints.txt").write_text(f"{needed_msgspec()}\n")
            uv.run(
                *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "--python", sys.executable),
                *("--override", "overrides.txt", "--constraint", "constraints.txt", *only_wheels),
                *("--output-file", str(resolved), wanted.file.name),
                blamed=wanted.file,
                remote=True,
            )
            text = resolved.read_bytes()
            return resolved, text
    packages = check_packages(text, wanted.file)
    if not packages:
        return pylock, b""
    if settings.indexes_alone:
        text = as_requirements(packages, wanted.file)
        resolved.write_bytes(text)
        return resolved, text
    return pylock, text


def needed_msgspec() -> str:
    """As this package requires it."""
    try:
        required = metadata.requires(OURS) or []
    except metadata.PackageNotFoundError:
        required = []
    return next((one.partition(";")[0].strip() for one in required if one.startswith(_NEEDED)), _NEEDED)


def _add_sdk(wanted: Wanted, environment: Path) -> None:
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    place = site / OURS
    if place.exists():
        what = f"one of its packages brings a module {OURS}, which is the name of the SDK"
        raise EnvironmentNotBuilt(what, wanted.file)
    place.symlink_to(Path(kdcube.__file__).parent)
    found = next(site.glob(f"{_NEEDED}-*.dist-info"), None)
    if found is None:
        _copy_msgspec(site)
        return
    version, needed = found.name.removeprefix(f"{_NEEDED}-").removesuffix(".dist-info"), needed_msgspec()
    if _release(version) < _release(needed.partition(">=")[2]):
        raise EnvironmentNotBuilt(
            f"it pins {_NEEDED} {version}, and the SDK needs {needed}: raise it, or leave it out to get proc's own",
            wanted.file,
        )


def _release(version: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _copy_msgspec(site: Path) -> None:
    """Proc's own: it is of the same Python and the same platform."""
    for file in metadata.files(_NEEDED) or []:
        source = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    compileall.compile_dir(site / _NEEDED, quiet=2)


def _try_out(wanted: Wanted, python: Path, work: Path) -> None:
    """The host can be started in it."""
    try:
        tried = subprocess.run(
            [str(python), "-P", "-B", "-c", "import kdcube.sdk.host"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(work), "PYTHONNOUSERSITE": "1", "LANG": "C.UTF-8"},
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TRY_S,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentNotBuilt(f"importing the SDK in it takes longer than {_TRY_S:g} s", wanted.file) from None
    if tried.returncode:
        words = tried.stderr.decode(errors="replace").strip().splitlines()
        raise EnvironmentNotBuilt(f"the SDK cannot be imported in it: {words[-1] if words else ''}"[:500], wanted.file)


def record(wanted: Wanted, began: float) -> dict[str, Any]:
    """What is written about a build into its environment."""
    return {
        "kind": wanted.kind.value,
        "file": wanted.file.name,
        "python": sys.version.split()[0],
        "kdcube": kdcube.__version__,
        "built_at": int(time.time()),
        "seconds": round(time.monotonic() - began, 3),
    }

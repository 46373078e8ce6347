"""``kdcube bundles list|add|update|remove|reload|rollback|history``: the registry of a running installation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec
from cyclopts import Parameter

from kdcube.cli.chat.settings import ChatSettings
from kdcube.cli.output import table
from kdcube.cli.settings import local_settings
from kdcube.client import Client, ClientError, Refused
from kdcube.client.address import is_local
from kdcube.client.registry import Item, Listed, NotActive, Registry, Told
from kdcube.config.documents import UnreadableDocument, read_json
from kdcube.config.load import load
from kdcube.config.yaml_files import SUFFIXES, json_of
from kdcube.local.administrator import read_key
from kdcube.local.home import Home
from kdcube.local.state import read_state
from kdcube.protocol.errors import InvalidInput, KDCubeError

LIMIT_S = 300.0
_BAD_INPUT = frozenset({400, 404, 409, 412, 413})

T = TypeVar("T")


class RegistryFailed(KDCubeError):
    """The installation could not be asked."""


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Which installation, and by whom."""

    url: str | None = None
    "The installation, by default the one that `kdcube up` runs here."
    token: str | None = None
    "An administrator's. Other users of this machine can see it: KDCUBE_TOKEN is safer. `kdcube up` keeps its own."
    json: Annotated[bool, Parameter(negative="")] = False
    "Print it as JSON."


@Parameter(name="*")
@dataclass(frozen=True)
class Waiting:
    """How long, and what for."""

    reason: str | None = None
    "For the history."
    timeout: float = LIMIT_S
    "Seconds to wait until it runs on all procs."


@Parameter(name="*")
@dataclass(frozen=True)
class Fields:
    """What an entry says, see docs/bundles.md, and whether it is the default one."""

    path: str | None = None
    "The folder of its code, absolute, on the procs."
    git_url: str | None = None
    "Where its code is fetched from."
    git_ref: str | None = None
    "A branch, tag or commit."
    git_subdir: str | None = None
    "The bundle's folder in the repository."
    set: Annotated[list[str] | None, Parameter(negative="")] = None
    "Any other field, as name=JSON, such as --set max_attempts=2; null brings the default back."
    entry: Path | None = None
    "A file with the whole entry, JSON or YAML."
    default: Annotated[bool, Parameter(negative="")] = False
    "It gets messages that name no bundle."


_HERE = Where()
_PATIENT = Waiting()
_NOTHING = Fields()


def list_(*, where: Where = _HERE) -> None:
    """Show the bundles that are registered, and what runs of them."""
    _show_list(_asked(where, lambda registry: registry.list()), where)


def history(bundle_id: str, /, *, limit: int = 20, where: Where = _HERE) -> None:
    """Show the releases of a bundle, the latest first.

    Parameters
    ----------
    bundle_id
        The bundle.
    limit
        How many.
    """
    releases = _asked(where, lambda registry: registry.history(bundle_id, limit))
    if where.json:
        _print_json(releases)
        return
    rows = [
        (str(one.number), one.state, one.origin, one.author, (one.revision or "")[:12], one.problem or one.reason or "")
        for one in releases
    ]
    table(("release", "state", "origin", "author", "commit", "reason"), rows)


def add(
    bundle_id: str,
    /,
    *,
    fields: Fields = _NOTHING,
    waiting: Waiting = _PATIENT,
    where: Where = _HERE,
) -> None:
    """Register a bundle, and wait until it runs.

    Parameters
    ----------
    bundle_id
        The bundle, such as support@1.2.0.
    """
    entry = {**(_entry_file(fields.entry) if fields.entry else {}), **_given(fields), "id": bundle_id}

    async def change(registry: Registry) -> Told:
        told = await _waited(registry, await registry.add(entry, waiting.reason), waiting)
        if fields.default:
            await registry.make_default(bundle_id)
        return told

    _show(_asked(where, change), where)


def update(
    bundle_id: str,
    /,
    *,
    fields: Fields = _NOTHING,
    waiting: Waiting = _PATIENT,
    where: Where = _HERE,
) -> None:
    """Change the entry of a bundle, and wait until that runs.

    Parameters
    ----------
    bundle_id
        The bundle.
    """
    given = _given(fields)
    if not given and fields.entry is None and not fields.default:
        raise InvalidInput(
            "bundle_id", "say what is to change: --git-ref, --set name=JSON, --entry FILE, --default ..."
        )

    async def change(registry: Registry) -> Told | None:
        told: Told | None = None
        if fields.entry is not None:
            told = await registry.replace(bundle_id, {**_entry_file(fields.entry), **given}, waiting.reason)
        elif given:
            told = await registry.patch(bundle_id, given, waiting.reason)
        told = told and await _waited(registry, told, waiting)
        if fields.default:
            await registry.make_default(bundle_id)
        return told

    told = _asked(where, change)
    if told is not None:
        _show(told, where)


def remove(
    bundle_id: str,
    /,
    *,
    default: str | None = None,
    waiting: Waiting = _PATIENT,
    where: Where = _HERE,
) -> None:
    """Take a bundle away. Turns that run finish.

    Parameters
    ----------
    bundle_id
        The bundle.
    default
        Which bundle gets messages that name none from then on.
    """

    async def change(registry: Registry) -> Told:
        return await _waited(registry, await registry.remove(bundle_id, default, waiting.reason), waiting)

    _show(_asked(where, change), where)


def reload(bundle_id: str, /, *, waiting: Waiting = _PATIENT, where: Where = _HERE) -> None:
    """Look for news of a bundle, and wait until they run. Running turns finish on the version that they began with.

    Parameters
    ----------
    bundle_id
        The bundle.
    """

    async def change(registry: Registry) -> Told:
        return await _waited(registry, await registry.reload(bundle_id, waiting.reason), waiting)

    _show(_asked(where, change), where)


def rollback(
    bundle_id: str,
    /,
    *,
    to: int | None = None,
    waiting: Waiting = _PATIENT,
    where: Where = _HERE,
) -> None:
    """Go back to an earlier release, and wait until it runs.

    Parameters
    ----------
    bundle_id
        The bundle.
    to
        The number of a release; by default the last one before that differs from what is served.
    """

    async def change(registry: Registry) -> Told:
        return await _waited(registry, await registry.rollback(bundle_id, to, waiting.reason), waiting)

    _show(_asked(where, change), where)


def _asked(where: Where, work: Callable[[Registry], Awaitable[T]]) -> T:
    """Raises InvalidInput, KDCubeError."""
    local = local_settings() if where.url is None else None
    home = None if local is None else Home(local.home)
    state = home and read_state(home.state_file)
    url = where.url or (state.url if state else f"http://127.0.0.1:{local.first_port if local else 8010}")
    token = where.token or load(ChatSettings).token or (read_key(home) if home and is_local(url) else None)
    if token is None:
        raise InvalidInput("token", "give an administrator's token in KDCUBE_TOKEN, or an API key with the scope admin")
    return asyncio.run(_ask(url, token, work))


async def _ask(url: str, token: str, work: Callable[[Registry], Awaitable[T]]) -> T:
    async with Client(url, token=token) as client:
        try:
            return await work(Registry(client))
        except NotActive as error:
            release = error.told.release
            raise RegistryFailed(f"{release.bundle_id} release {release.number}: {error}") from error
        except Refused as error:
            if error.status in _BAD_INPUT:
                raise InvalidInput(error.field or "bundle_id", error.message) from error
            raise RegistryFailed(error.message) from error
        except ClientError as error:
            raise RegistryFailed(str(error)) from error


async def _waited(registry: Registry, told: Told, waiting: Waiting) -> Told:
    problems: set[str] = set()

    def tell(now: Told) -> None:
        for proc in now.procs or ():
            if proc.problem is not None and proc.problem not in problems:
                problems.add(proc.problem)
                print(f"{proc.instance}: {proc.problem}", file=sys.stderr)

    return await registry.active(told, limit_s=waiting.timeout, on_change=tell)


def _given(fields: Fields) -> dict[str, Any]:
    named = {
        "path": fields.path,
        "git_url": fields.git_url,
        "git_ref": fields.git_ref,
        "git_subdir": fields.git_subdir,
    }
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    for one in fields.set or ():
        name, equals, text = one.partition("=")
        if not equals:
            raise InvalidInput("set", f"--set {one}: give name=JSON")
        try:
            given[name] = read_json(text)
        except UnreadableDocument:
            given[name] = text  # a word needs no quotes
    return given


def _entry_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        entry = read_json(json_of(text) if file.suffix in SUFFIXES else text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("entry", f"{file} cannot be read: {getattr(error, 'strerror', 'it is no UTF-8')}") from error
    except UnreadableDocument as error:
        raise InvalidInput("entry", f"{file}: {error}") from error
    if not isinstance(entry, dict):
        raise InvalidInput("entry", f"{file}: give an object")
    return cast("dict[str, Any]", entry)


def _show_list(listed: Listed, where: Where) -> None:
    if where.json:
        _print_json(listed)
        return
    table(("bundle", "release", "commit", "runs", "state"), map(_row, listed.items))


def _row(item: Item) -> tuple[str, ...]:
    name = f"{item.bundle_id} (default)" if item.default else item.bundle_id
    served = item.served
    versions = sorted({proc.version for proc in item.procs or () if proc.version})
    problems = sorted({proc.problem for proc in item.procs or () if proc.problem})
    last = item.last
    settled = "has failed" if last.state == "failed" else f"is {last.state}"
    state = f"release {last.number} {settled}" if served is None or last.number != served.number else ""
    told = "; ".join(part for part in (state, last.problem or "", *problems) if part)
    return (
        name,
        str(served.number) if served else "none",
        (served.revision or "")[:12] if served else "",
        ", ".join(version[:12] for version in versions),
        told or "served",
    )


def _show(told: Told, where: Where) -> None:
    if where.json:
        _print_json(told)
        return
    release = told.release
    if release.entry is None:
        print(f"{release.bundle_id} is taken away (release {release.number})")
        return
    versions = sorted({proc.version for proc in told.procs or () if proc.version})
    number = len(told.procs or ())
    print(
        f"{release.bundle_id} release {release.number} runs {', '.join(versions)} on {number} "
        f"{'proc' if number == 1 else 'procs'}"
    )


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")

"""``kdcube chat``: one question, or a session."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kdcube.cli.chat.inputs import Break, End, Inputs, Line, breaks, read_lines
from kdcube.cli.chat.memory import Memory
from kdcube.cli.chat.plain import JsonView, PlainView
from kdcube.cli.chat.session import Leaving, Session
from kdcube.cli.chat.settings import ChatSettings
from kdcube.cli.chat.slash import Slash
from kdcube.cli.chat.view import View
from kdcube.cli.chat.wording import told
from kdcube.cli.settings import local_settings
from kdcube.client import Client, ClientError, Profile, Refused
from kdcube.config.load import load
from kdcube.local.home import Home
from kdcube.local.state import read_state
from kdcube.protocol.errors import InvalidInput, KDCubeError

_BAD_INPUT = frozenset({400, 404, 413, 422})


class ChatFailed(KDCubeError):
    """The installation could not answer."""


def chat(
    text: str | None = None,
    /,
    *,
    url: str | None = None,
    bundle: str | None = None,
    token: str | None = None,
    ca: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Ask one question, or talk.

    Parameters
    ----------
    text
        The question; without it what is piped in, or else a session at the terminal.
    url
        The installation, by default the one that `kdcube up` runs here.
    bundle
        Who answers, by default the installation's default bundle.
    token
        Signs in. Other users of this machine can see it: KDCUBE_TOKEN is safer.
    ca
        A file in PEM with the authorities that vouch for the installation, or its own certificate.
    json
        Print one event per line, as JSON.
    """
    settings = load(ChatSettings)
    question = _question(text)
    outcome = asyncio.run(
        _chat(
            settings,
            url or _local_url(),
            question,
            bundle_id=bundle,
            token=token or settings.token,
            trust=None if ca is None else _trusting(ca),
            json=json,
        )
    )
    if outcome:
        raise SystemExit(outcome)


def _question(text: str | None) -> str | None:
    """None: there is to be a session. Raises InvalidInput."""
    if text is None and sys.stdin.isatty():
        return None
    question = sys.stdin.read() if text is None else text
    if not question.strip():
        raise InvalidInput("text", "the question is empty")
    return question.strip("\n")


def _trusting(ca: Path) -> ssl.SSLContext:
    """Raises InvalidInput."""
    try:
        return ssl.create_default_context(cafile=ca.expanduser())
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificate"
        raise InvalidInput("ca", f"cannot read {ca}: {reason}; give a file of certificates in PEM") from None


def _local_url() -> str:
    local = local_settings()
    state = read_state(Home(local.home).state_file)
    return state.url if state else f"http://127.0.0.1:{local.first_port}"


async def _chat(
    settings: ChatSettings,
    url: str,
    question: str | None,
    *,
    bundle_id: str | None,
    token: str | None,
    trust: ssl.SSLContext | None,
    json: bool,
) -> int:
    """The exit code. Raises KDCubeError, KeyboardInterrupt."""
    memory = Memory(settings.state_folder)
    inputs = Inputs()
    async with AsyncExitStack() as stack:
        view: View | None = None

        def retrying(reason: str, pause_s: float) -> None:
            if view is not None:
                view.retrying(reason, pause_s)

        client = await stack.enter_async_context(Client(url, token=token, on_retry=retrying, trust=trust))
        if token is None:
            client.session_id = memory.session_id(client.url)
        try:
            profile = await client.sign_in()
            if token is None and client.session_id is not None:
                memory.keep_session(client.url, client.session_id)
            _check_bundle(bundle_id, profile)
            view = await stack.enter_async_context(_view(settings, inputs, memory, asks=question is None, json=json))
            session = Session(client, view, inputs, bundle_id=bundle_id)
            if question is None:
                await _converse(session, profile)
                return 0
            reading = await session.ask(question)
            return 0 if reading.state in ("completed", "applied") else 1
        except ClientError as error:
            if isinstance(error, Refused) and error.status in _BAD_INPUT:
                raise InvalidInput(error.field or "text", told(error, client)) from error
            raise ChatFailed(told(error, client)) from error
        except Leaving as leaving:
            if leaving.interrupted:
                raise KeyboardInterrupt from leaving
            return 0 if question is None else 1


def _check_bundle(bundle_id: str | None, profile: Profile) -> None:
    """Raises InvalidInput, before a session is begun in vain."""
    known = [bundle.id for bundle in profile.bundles]
    if bundle_id is not None and bundle_id not in known:
        raise InvalidInput("bundle", f"there is no bundle {bundle_id} for you; there are: {', '.join(known) or 'none'}")


async def _converse(session: Session, profile: Profile) -> None:
    """Takes lines until the user leaves. Raises Leaving."""
    slash = Slash(session, profile)
    view = session.view
    who = profile.username or profile.user_type
    view.note(f"{session.client.origin} · {session.bundle_id or profile.default_bundle_id} · {who} · /help")
    leaves = False
    while True:
        given = Line(session.later.pop(0)) if session.later else await session.inputs.get()
        try:
            match given:
                case End() | Line("/quit"):
                    return
                case Break() if leaves:
                    raise Leaving(interrupted=True)
                case Break():
                    view.note("Ctrl-C again leaves")
                case Line(text) if text.startswith("/"):
                    view.command(text)
                    await slash.run(text)
                case Line(text) if text.strip():
                    await session.ask(text)
                case _:
                    pass
        except ClientError as error:
            view.problem(told(error, session.client))
        leaves = isinstance(given, Break)


@asynccontextmanager
async def _view(
    settings: ChatSettings, inputs: Inputs, memory: Memory, *, asks: bool, json: bool
) -> AsyncGenerator[View]:
    """What suits the standard streams. ``asks``: lines are read where a user can type them."""
    if not json and sys.stdout.isatty() and settings.clever_terminal:
        from kdcube.cli.chat.standard import terminal_view  # scripts do without what it imports

        async with terminal_view(inputs, memory, asks=asks, styles=settings.styles) as view:
            yield view
    else:
        with breaks(inputs):
            if asks:
                read_lines(inputs)
            yield JsonView() if json else PlainView()

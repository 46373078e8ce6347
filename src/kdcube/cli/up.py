"""``kdcube up``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile
from cyclopts.validators import Number

from kdcube.cli.detach import detach as in_background
from kdcube.cli.indexing import shown_progress
from kdcube.cli.settings import check_given_database, local_settings
from kdcube.cli.welcome import welcome
from kdcube.config.load import misspelt_variables
from kdcube.local.docs import DOCS_ID, check_folder
from kdcube.local.home import Home
from kdcube.local.run import run
from kdcube.local.stack import MAX_PROCESSES, Options, Stack
from kdcube.protocol.errors import InvalidInput

_Processes = Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_PROCESSES))]


def up(
    *,
    detach: Annotated[bool, Parameter(negative="")] = False,
    ingress: _Processes = 2,
    proc: _Processes = 1,
    slots: Annotated[int | None, Parameter(validator=Number(gte=1, lte=1000))] = None,
    bundle: Annotated[list[Path] | None, Parameter(negative="")] = None,
    docs: Path | None = None,
    auth: ExistingFile | None = None,
    redis_url: str | None = None,
    database_url: str | None = None,
    watch: Annotated[bool, Parameter(negative="")] = False,
    proxy: Annotated[bool, Parameter(negative="")] = False,
    metrics: bool = True,
) -> None:
    """Start the system on this machine, and stop it on Ctrl-C.

    Parameters
    ----------
    detach
        Return when all is ready; `kdcube down` stops it.
    ingress
        Ingress processes, on KDCUBE_PORT (8010) and the ports after it.
    proc
        Proc processes, on KDCUBE_PORT + 10 and the ports after it.
    slots
        Turns at once in each proc.
    bundle
        The folder of a bundle to serve; may be given several times. The first one becomes the default.
    docs
        A folder of Markdown, HTML, PDF and text files to answer questions about; by default KDCube's own documents.
    auth
        A JSON file of tokens: {token: {"sub": ..., "username": ..., "email": ..., "roles": [...]}}.
    redis_url
        Your own Valkey or Redis instead of the embedded one.
    database_url
        Your own PostgreSQL instead of the embedded one.
    watch
        Reload bundles when their files change: new turns run the new code, running ones finish on the old.
    proxy
        Put nginx in front, on KDCUBE_PORT + 70; with TLS if KDCUBE_PROXY_TLS says self-signed or given.
    metrics
        Start the metrics service, on KDCUBE_PORT + 80.
    """
    check_given_database(database_url)
    settings = local_settings()
    for variable in misspelt_variables():
        print(f"kdcube: {variable}", file=sys.stderr)
    if docs is not None and DOCS_ID in settings.bundles.bundles:
        raise InvalidInput("docs", f"--docs: AGENTIC_BUNDLES_JSON sets {DOCS_ID} already; name the folder there")
    options = Options(
        ingress=ingress,
        proc=proc,
        slots=slots,
        bundles=tuple(bundle or ()),
        docs=docs and check_folder(docs),
        auth=auth and auth.absolute(),
        redis_url=redis_url,
        database_url=database_url,
        watch=watch,
        proxy=proxy,
        metrics=metrics,
    )
    home = Home(settings.home)
    stack = Stack(home, settings, options)
    if detach:
        home.make()
        in_background(lambda ready: _run(stack, ready, relays=False), home.logs / "supervisor.log")
        welcome(home)
    else:
        _run(stack, lambda: welcome(home), relays=True)


def _run(stack: Stack, on_up: Callable[[], None], *, relays: bool) -> None:
    with shown_progress(_report) as watch:
        asyncio.run(run(stack, _report, on_up, watch, relays=relays))


def _report(line: str) -> None:
    print(line, flush=True)

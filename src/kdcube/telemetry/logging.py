"""Logs: one JSON object a line on standard error, or readable lines when that is a terminal.

Modules write ``logger = structlog.get_logger(__name__)`` and ``logger.info("turn.started", slots=3)``. What the
standard library's logging carries (uvicorn, asyncio, warnings) comes out in the same shape.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kdcube.telemetry.redaction import redact_field

_about: ContextVar[Mapping[str, str]] = ContextVar("kdcube.log_fields", default=MappingProxyType({}))
"""Of what runs now."""


def configure(
    service: str, instance: str, level: str, *, scope: tuple[str, str] | None = None, stream: TextIO | None = None
) -> None:
    """Sets logging up for this process; calling it again replaces the setting.

    ``level`` is debug, info, warning or error. Every line has ``service`` and ``instance``, and with a ``scope`` the
    ``tenant`` and the ``project`` that it names.
    """
    out = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    origin = {"service": service, "instance": instance}
    if scope is not None:
        origin["tenant"], origin["project"] = scope

    def identify(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**_about.get(), **event, **origin}

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        identify,
    ]
    rendered: list[Processor] = [_redacted, _renderer(out)]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,  # so that tests can look at what was logged
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.INFO))  # libraries' debug lines are theirs
    logging.captureWarnings(True)


class bound:
    """``with bound(request_id=...)``: what is logged inside, also in tasks that start there, has these fields."""

    __slots__ = ("_before", "_values")

    def __init__(self, **values: str) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before: Token[Mapping[str, str]] = _about.set({**_about.get(), **self._values})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _about.reset(self._before)


def bind(**values: str) -> None:
    """What this task logs from here on, and tasks that it starts, has these fields."""
    _about.set({**_about.get(), **values})


def _redacted(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: redact_field(name, value) for name, value in event.items()}


def _renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()

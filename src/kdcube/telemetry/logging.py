"""Logs: one JSON object a line on standard error, or readable lines when that is a terminal.

Modules write ``logger = structlog.get_logger(__name__)`` and ``logger.info("turn.started", turn_id=...)``. What the
standard library's logging carries (uvicorn, asyncio, warnings) comes out in the same shape.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import TextIO

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from kdcube.telemetry.redaction import redact_field


def configure(service: str, instance: str, level: str, *, stream: TextIO | None = None) -> None:
    """Sets logging up for this process; calling it again replaces the setting.

    ``level`` is debug, info, warning or error. Every line has ``service`` and ``instance``.
    """
    out = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]

    def identify(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        event["instance"] = instance
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
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


def bound(**values: str) -> AbstractContextManager[None]:
    """``with bound(request_id=...)``: what is logged inside, also in tasks that start there, has these fields."""
    return bound_contextvars(**values)


def _redacted(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: redact_field(name, value) for name, value in event.items()}


def _renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()

"""From the end of a call to what its client is told; what only the operator should know goes into the log."""

from __future__ import annotations

import re

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import BadGateway, Failed, NotFound, TimedOut, Unauthorised, Unavailable, Unprocessable
from kdcube.proc.bundles.calls import (
    Answered,
    CallCrashed,
    CallFailed,
    CallLost,
    CallOutcome,
    CallRefused,
    CallStopped,
    Ended,
    InvalidData,
    ResultTooLarge,
    SecretMissing,
    UnknownOperation,
)
from kdcube.protocol.errors import InvalidInput, KDCubeError

MESSAGE_MAX_CHARS = 2_000
NAME_MAX_CHARS = 128
SECRET_RETRY_S = 10.0
"""A vault that gave no value is asked again after that (``secrets.RETRY_S``)."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MAY_HAVE_HAPPENED = "What it did until then stands; it is not repeated."

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def error_of(outcome: CallOutcome, bundle_id: str, operation: str) -> KDCubeError:
    """The error that the client gets. Not for a call that was answered, ended, or has no client any more."""
    log = logger.bind(bundle=bundle_id, operation=operation)
    match outcome:
        case InvalidData(field, message):
            return InvalidInput(field, message)
        case CallFailed(code, message):
            word = code if _CODE.fullmatch(code) else "bundle_error"
            return Unprocessable(message[:MESSAGE_MAX_CHARS], error=word)
        case CallRefused(error):
            return error
        case CallCrashed(detail):
            log.error("operation.crashed", detail=detail)
            return Failed(
                "The operation failed unexpectedly; the request id leads to it in the logs.", error="operation_failed"
            )
        case SecretMissing(name, detail):
            log.error("operation.secret_unavailable", secret=name, detail=detail)
            return Unavailable(
                f"The operation cannot be done now: its secret {name[:NAME_MAX_CHARS]} cannot be read.",
                retry_after_s=SECRET_RETRY_S,
                error="secret_unavailable",
            )
        case ResultTooLarge(detail):
            log.error("operation.result_too_large", detail=detail)
            return BadGateway("The operation's result is too large.", error="result_too_large")
        case UnknownOperation():
            return NotFound("There is no such operation.")
        case CallStopped("over"):
            return Unauthorised(
                f"The sign-in or the key by which this was asked for does not count any more. {_MAY_HAVE_HAPPENED}"
            )
        case CallStopped("timeout"):
            return TimedOut(f"The operation took too long. {_MAY_HAVE_HAPPENED}", error="operation_timeout")
        case CallStopped("drain"):
            return BadGateway(
                f"The operation was stopped, as this process is. {_MAY_HAVE_HAPPENED}", error="operation_interrupted"
            )
        case CallLost(reason):
            log.error("operation.lost", reason=reason)
            return BadGateway(f"The operation ended unexpectedly. {_MAY_HAVE_HAPPENED}", error="operation_interrupted")
        case CallStopped() | Answered() | Ended():
            return Failed("The operation ended otherwise than it should have.", error="operation_failed")

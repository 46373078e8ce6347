"""What is told of an error that a bundle raises: to the user, and to the operator."""

from __future__ import annotations

import traceback
from typing import TypeVar, cast

from kdcube.sdk.context import BundleError, Refused
from kdcube.sdk.secrets import SecretUnavailable

UNEXPECTED = "The assistant failed unexpectedly."
"""What the user is told when a handler raises something other than BundleError."""
_UNAVAILABLE = "The assistant cannot work now: its secret {} cannot be read."
_MAX_DETAIL_CHARS = 16_384

E = TypeVar("E", bound=Exception)


def explain(error: BaseException) -> tuple[BundleError, str]:
    """What the user is told of ``error``, and its traceback for the operator when it was not meant for the user."""
    if meant := _of_kind(error, BundleError):
        return meant, ""
    detail = "".join(traceback.format_exception(error))[-_MAX_DETAIL_CHARS:]
    if unavailable := unreadable_in(error):
        return BundleError("secret_unavailable", _UNAVAILABLE.format(unavailable.name)), detail
    return BundleError("bundle_error", UNEXPECTED), detail


def unreadable_in(error: BaseException) -> SecretUnavailable | None:
    """The secret that a handler could not go on without, if that is what ``error`` is."""
    return _of_kind(error, SecretUnavailable)


def refusal_in(error: BaseException) -> Refused | None:
    """The refusal that a handler has let pass, if that is what ``error`` is."""
    meant = _of_kind(error, BundleError)
    return meant if isinstance(meant, Refused) else None


def _of_kind(error: BaseException, kind: type[E]) -> E | None:
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):  # of an asyncio.TaskGroup in the handler
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            if found := _of_kind(inner, kind):
                return found
    return None

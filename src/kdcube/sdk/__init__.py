"""The only package that a bundle imports: `Bundle` registers handlers, `Turn` is what a message handler gets."""

from kdcube.sdk.bundle import Bundle, BundleError, OperationContext
from kdcube.sdk.inbox import Inbox, Message
from kdcube.sdk.secrets import SecretNotGranted, SecretUnavailable
from kdcube.sdk.turn import Cancellation, Marker, StepStatus, Turn
from kdcube.sdk.wire import HistoryItem, User

__all__ = [
    "Bundle",
    "BundleError",
    "Cancellation",
    "HistoryItem",
    "Inbox",
    "Marker",
    "Message",
    "OperationContext",
    "SecretNotGranted",
    "SecretUnavailable",
    "StepStatus",
    "Turn",
    "User",
]

"""The only package that a bundle imports: `Bundle` registers handlers, `Turn` is what a message handler gets."""

from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk.bundle import Bundle
from kdcube.sdk.context import BundleError, OperationContext, Refused
from kdcube.sdk.inbox import Inbox, Message
from kdcube.sdk.secrets import SecretNotGranted, SecretUnavailable
from kdcube.sdk.turn import Cancellation, Marker, StepStatus, Turn
from kdcube.sdk.wire import AcceptedTurn, Conversation, ConversationTurn, HistoryItem, User

__all__ = [
    "AcceptedTurn",
    "Bundle",
    "BundleError",
    "Cancellation",
    "Conversation",
    "ConversationTurn",
    "HistoryItem",
    "Inbox",
    "Marker",
    "Message",
    "OperationContext",
    "Refused",
    "SecretNotGranted",
    "SecretUnavailable",
    "StepStatus",
    "TraceContext",
    "Turn",
    "User",
]

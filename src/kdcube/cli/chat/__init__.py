"""``kdcube chat``: a conversation at the terminal, on the public HTTP API alone."""

from kdcube.cli.chat.command import chat

__all__ = ["chat"]

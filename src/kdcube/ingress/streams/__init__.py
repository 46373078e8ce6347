"""Streams: what a turn says, from its log to each client, cut and resumed anywhere.

One reader per log and process (``hub``) keeps the recent lines of the log in memory (``turnlog``). A stream is a place
in each log that it shows (``track``): it takes what lies behind its place from that memory, or a page at a time from
Valkey when it is further behind. So a slow reader costs a number, not a buffer, and whoever comes late joins without a
seam. It is written to its client by an object without a task (``response``), into the connection that uvicorn hands
over or through ASGI (``outlets``).
"""

from kdcube.ingress.streams.settings import StreamSettings
from kdcube.ingress.streams.streams import Streams

__all__ = ["StreamSettings", "Streams"]

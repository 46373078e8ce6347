"""Where a piece of work stands in a trace: W3C Trace Context, as it travels with requests, turns and calls.

https://www.w3.org/TR/trace-context/: ``traceparent`` is ``00-<trace id>-<span id>-<flags>``, all in lowercase
hexadecimal digits; ``tracestate`` is passed on as it came.
"""

from __future__ import annotations

import random
import re
from typing import Self

import msgspec

STATE_MAX_CHARS = 512
"""Of ``tracestate``: what everybody must pass on. A longer one is left out."""

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[\x20-\x7e]+")
_random = random.Random()  # noqa: S311 - these ids tell things apart, they guard nothing


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The trace that work belongs to, and the span (a piece of work with a beginning and an end) that it is part of.

    Made by ``parse``, ``new``, or from fields that came from one of these.
    """

    traceparent: str
    tracestate: str = ""

    @classmethod
    def parse(cls, traceparent: str, tracestate: str = "") -> Self | None:
        """What another system tells, in the version that is spoken here; None when it is not well-formed."""
        found = _PARENT.fullmatch(traceparent)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if more is not None and version == "00":
            return None
        if len(tracestate) > STATE_MAX_CHARS or not _STATE.fullmatch(tracestate):
            tracestate = ""
        return cls(f"00-{trace_id}-{span_id}-{int(flags, 16) & 1:02x}", tracestate)

    @classmethod
    def new(cls) -> Self:
        """A trace of its own, of which nobody records anything: its flags say so."""
        return cls(f"00-{_random.getrandbits(128) or 1:032x}-{_random.getrandbits(64) or 1:016x}-00")

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the caller records this trace."""
        return self.traceparent[53:] == "01"

    @property
    def headers(self) -> dict[str, str]:
        """For the requests that belong to this work."""
        headers = {"traceparent": self.traceparent}
        if self.tracestate:
            headers["tracestate"] = self.tracestate
        return headers

"""Failures in one line, for people."""

from __future__ import annotations

import math

from kdcube.client import Client, ClientError, Refused, Unreachable
from kdcube.client.address import is_local


def told(error: ClientError, client: Client) -> str:
    """What went wrong, and what helps."""
    match error:
        case Unreachable(nobody=True):
            remedy = "; `kdcube up` starts it here" if is_local(client.url) else ""
            return f"nothing listens at {client.origin}{remedy}"
        case Refused(status=401):
            return f"{error.message} (401; a token is given by --token or KDCUBE_TOKEN)"
        case Refused(status=403):
            return f"{error.message} (403)"
        case Refused(retry_after_s=float(wait_s) | int(wait_s)):
            return f"{error.message} Try again in {math.ceil(wait_s)} s. ({error.status})"
        case _:
            return str(error)

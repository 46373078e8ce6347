"""The header fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11."""

from __future__ import annotations

import math

from kdcube.redis.rates import Left

NAMES = ("RateLimit", "RateLimit-Policy")


def rate_fields(left: Left) -> list[tuple[bytes, bytes]]:
    """None when there is no limit. Both are lists of strings with parameters (RFC 9651): ``q`` requests in ``w``
    seconds; ``r`` of them are left for ``t`` seconds.
    """
    if not left:
        return []
    policy = ", ".join(f'"{window.name}";q={window.quota};w={math.ceil(window.window_s)}' for window in left)
    state = ", ".join(f'"{window.name}";r={window.left};t={math.ceil(window.reset_s)}' for window in left)
    return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())]

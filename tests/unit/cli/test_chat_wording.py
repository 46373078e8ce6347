from __future__ import annotations

import pytest

from kdcube.cli.chat.wording import told
from kdcube.client import Client, ClientError, Refused, Unreachable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            Unreachable("http://127.0.0.1:1", "nothing listens there", nobody=True),
            "nothing listens at http://127.0.0.1:1; `kdcube up` starts it here",
        ),
        (
            Unreachable("http://127.0.0.1:1", "no answer in time"),
            "http://127.0.0.1:1 cannot be reached: no answer in time",
        ),
        (Refused(401, "Sign in."), "Sign in. (401; a token is given by --token or KDCUBE_TOKEN)"),
        (Refused(403, "Not for you."), "Not for you. (403)"),
        (Refused(429, "Too many.", retry_after_s=6.2), "Too many. Try again in 7 s. (429)"),
        (Refused(503, "At capacity.", retry_after_s=2), "At capacity. Try again in 2 s. (503)"),
        (Refused(400, "The text is too long."), "The text is too long."),
        (ClientError("It is odd."), "It is odd."),
    ],
)
def test_a_failure_is_one_line(error, line):
    assert told(error, Client("http://127.0.0.1:1")) == line

"""The page says the rule of the metrics service's user as the code has it."""

from __future__ import annotations

from pathlib import Path

from kdcube.redis.keys import Keys
from kdcube.redis.permissions import reading_rule

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_command_for_operators_is_the_rule():
    command = " ".join(("ACL SETUSER metrics on >PASSWORD", *reading_rule(Keys("TENANT", "PROJECT"))))
    assert command in " ".join(PAGE.read_text().split())

"""What the environment tells ``kdcube chat``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kdcube.config.environment import Environment


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """``load(ChatSettings)``."""

    token: str | None = field(repr=False)
    state_folder: Path
    """Of this user, for what is kept between runs."""
    styles: bool
    """Whether colours and the like are wanted (NO_COLOR)."""
    clever_terminal: bool
    """Whether the terminal can move its cursor."""

    @classmethod
    def read(cls, environment: Environment) -> Self:
        token = environment.secret("KDCUBE_TOKEN")
        state = environment.path("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        return cls(
            token=token.get_secret_value().strip() if token else None,
            state_folder=state / "kdcube",
            styles=environment.optional("NO_COLOR") is None,
            clever_terminal=environment.text("TERM", "dumb") not in ("dumb", "unknown"),
        )

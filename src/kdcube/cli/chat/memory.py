"""What ``kdcube chat`` keeps between runs: who an anonymous user is, and what was typed. For the owner's eyes only."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Memory:
    """Files in ``folder``, with mode 0600. What cannot be read or written is as good as not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions = folder / "sessions.json"

    def session_id(self, url: str) -> str | None:
        """The anonymous session at an installation: whoever knows it is that user."""
        return self._all().get(url)

    def keep_session(self, url: str, session_id: str) -> None:
        sessions = self._all()
        if sessions.get(url) == session_id or not self._make():
            return
        draft = self._sessions.with_suffix(f".{os.getpid()}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(sessions | {url: session_id})))
            draft.replace(self._sessions)
        except OSError:
            return

    def input_history(self) -> Path | None:
        """The file of what was typed; None when there can be none."""
        path = self._folder / "history"
        try:
            if self._make():
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                return path
        except OSError:
            pass
        return None

    def _all(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._sessions.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    def _make(self) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return False
        return True

"""What a turn has said so far, put together from its events."""

from __future__ import annotations

from typing import Any

import msgspec

from kdcube.client.answers import Citation
from kdcube.client.events import Event

RESYNC_NOTICE = "stream.resync"
"""A step for clients that know no ``resync``."""


class Reading:
    """Folds the events of one turn, in order. ``state`` is None until the turn has ended."""

    def __init__(self) -> None:
        self.attempt = 0
        self.started = False
        self.state: str | None = None
        self.error: dict[str, Any] | None = None
        self.position: int | None = None
        self.eta_s: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._text: dict[str, list[str]] = {}
        self.steps: dict[str, dict[str, Any]] = {}
        """The latest ``event`` of each step, by its name."""
        self.citations: list[Citation] = []
        self.followups: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.usage: list[dict[str, Any]] = []

    def text(self, marker: str) -> str:
        """All text of a marker."""
        parts = self._text.get(marker, [])
        if len(parts) > 1:  # keep later calls cheap
            parts[:] = ["".join(parts)]
        return parts[0] if parts else ""

    @property
    def answer(self) -> str:
        return self.text("answer")

    def add(self, event: Event) -> bool:
        """Takes one event. True when it replaces what the ones before it had said."""
        match event.name:
            case "chat_start":
                return self._start(int(event.data["attempt"]))
            case "resync":
                self._restore(event.data["data"])
                return True
            case "chat_delta":
                delta = event.data["delta"]
                self._text.setdefault(delta["marker"], []).append(delta["text"])
            case "chat_step":
                step = event.data["event"]
                if step.get("step") != RESYNC_NOTICE:
                    self.steps[str(step.get("step"))] = step
            case "chat_service":
                self._service(event.type, event.data.get("data"))
            case "chat_complete" | "chat_error":
                self._end(event.data["data"])
            case _:
                pass
        return False

    def _start(self, attempt: int) -> bool:
        again = self.started
        self.attempt, self.started, self.position = attempt, True, None
        self._clear()
        return again

    def _restore(self, data: dict[str, Any]) -> None:
        self._clear()
        self.attempt = int(data["attempt"])
        self.started = self.started or self.attempt > 0
        self._text = {marker: [text] for marker, text in data["text"].items()}
        self.steps = {str(step.get("step")): step for step in data["steps"]}
        for service in data["services"]:
            self._service(service["type"], service.get("data"))

    def _service(self, type_: str, data: Any) -> None:
        match type_:
            case "queue.position":
                self.position, self.eta_s = data["position"], data.get("eta_s")
            case "turn.citations":
                self.citations += msgspec.convert(data, list[Citation])
            case "turn.followups":
                self.followups = [str(question) for question in data]
            case "turn.artifact":
                self.artifacts.append(data)
            case "turn.usage":
                self.usage.append(data)
            case _:
                pass

    def _end(self, data: dict[str, Any]) -> None:
        self.state = str(data["state"])
        self.error = data.get("error")
        self.position = None
        if not self.answer and data.get("answer"):
            self._text["answer"] = [data["answer"]]

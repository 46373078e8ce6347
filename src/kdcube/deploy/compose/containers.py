"""What runs of a deployment by compose: its containers, as Docker sees them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from kdcube.deploy.compose.program import Docker
from kdcube.deploy.render.compose.rendering import ONCE

_DETAIL_CHARS = 400
_ENDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Container:
    """``health`` is that of Docker, empty for one that is not asked. ``detail``: what its last check said."""

    service: str
    name: str
    image: str
    state: str
    health: str
    exit_code: int | None
    """None while it runs."""
    restarts: int
    detail: str
    process: int
    """On the machine; 0 when none runs."""

    @property
    def ready(self) -> bool:
        """It serves, or has done what it was there for."""
        if self.service in ONCE:
            return self.state == "exited" and self.exit_code == 0
        return self.state == "running" and self.health in ("", "healthy")

    @property
    def trouble(self) -> str | None:
        """Why it is not ready, in words; None when it is, or is on its way."""
        match self:
            case Container(ready=True):
                return None
            case Container(state="exited" | "dead") if self.exit_code == 0:
                return "it has ended"
            case Container(state="exited" | "dead"):
                return f"it ended with exit code {self.exit_code}"
            case Container(state="restarting" | "running", health="" | "starting") if self.restarts:
                return f"it keeps ending ({self.restarts} so far)" + (
                    f", with exit code {self.exit_code}" if self.exit_code else ""
                )
            case Container(health="unhealthy"):
                return f"it runs, but is not well: {self.detail or 'its check says nothing'}"
            case _:
                return None

    @property
    def is_hopeless(self) -> bool:
        """Whether there is nothing to wait for: it ended and stays so, is not well, or has ended several times."""
        patient = self.state in ("running", "restarting") and self.health != "unhealthy"
        return self.trouble is not None and not (patient and self.restarts < _ENDS_MAX)

    @property
    def told(self) -> str:
        """In a word."""
        if self.ready:
            return "done" if self.service in ONCE else "ready"
        return self.health if self.state == "running" and self.health else self.state


def containers_of(docker: Docker, project: str) -> list[Container]:
    """Of all services, by name. Raises DockerFailed."""
    chosen = ("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=com.docker.compose.project={project}")
    ids = docker.output(*chosen).split()
    if not ids:
        return []
    inspected: list[dict[str, Any]] = json.loads(docker.output("inspect", *ids))
    found = (_container(each) for each in inspected if _label(each, "oneoff") != "True")
    return sorted(found, key=lambda each: (each.service, each.name))


def troubles(containers: Sequence[Container]) -> list[Container]:
    """Those that are not ready, and not just on their way."""
    return [each for each in containers if each.trouble is not None]


def _container(inspected: dict[str, Any]) -> Container:
    state: dict[str, Any] = inspected["State"]
    health = cast("dict[str, Any]", state.get("Health") or {})
    logs = cast("list[dict[str, Any]]", health.get("Log") or [])
    status = str(state["Status"])
    return Container(
        service=_label(inspected, "service"),
        name=str(inspected["Name"]).lstrip("/"),
        image=str(inspected["Config"]["Image"]),
        state=status,
        health=str(health.get("Status", "")).replace("none", ""),
        exit_code=None if status == "running" else int(state.get("ExitCode", 0)),
        restarts=int(inspected.get("RestartCount", 0)),
        detail=" ".join(str(logs[-1].get("Output", "")).split())[:_DETAIL_CHARS] if logs else "",
        process=int(state.get("Pid", 0)),
    )


def _label(inspected: dict[str, Any], name: str) -> str:
    labels = cast("dict[str, str]", inspected["Config"].get("Labels") or {})
    return labels.get(f"com.docker.compose.{name}", "")

"""What a check is, and for which target it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from kdcube.config.documents import Finding
from kdcube.deploy.descriptor.model import Descriptor


class Target(StrEnum):
    """What runs a deployment."""

    COMPOSE = "compose"
    ECS = "ecs"


BOTH = frozenset(Target)
COMPOSE = frozenset({Target.COMPOSE})
ECS = frozenset({Target.ECS})

Checking: TypeAlias = Callable[[Descriptor], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A check, the targets for which it holds, and whether what it finds is refused or only told."""

    targets: frozenset[Target]
    check: Checking
    refuses: bool = True

    @property
    def name(self) -> str:
        return self.check.__name__

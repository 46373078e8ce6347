"""The one place that reads the environment of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol, Self, TypeVar

from kdcube.config.environment import Environment


class Settings(Protocol):
    """A frozen class of settings that can be made from an environment."""

    @classmethod
    def read(cls, environment: Environment) -> Self: ...


S = TypeVar("S", bound=Settings)


def load(settings: type[S], environ: Mapping[str, str] | None = None) -> S:
    """``load(IngressSettings)``, once, in a service's main. Tests hand in ``environ``; None is the process's own.

    Raises ConfigurationError, which names the variable and the remedy.
    """
    return settings.read(Environment(os.environ if environ is None else environ))

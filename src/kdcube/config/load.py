"""The one place that reads the environment of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol, Self, TypeVar

from kdcube.config.environment import Environment
from kdcube.config.gateway import gateway_warnings
from kdcube.config.secret_files import SECRET_NAMES, SUFFIX, with_secret_files
from kdcube.config.variables import misspelt, unused


class Settings(Protocol):
    """A frozen class of settings that can be made from an environment."""

    @classmethod
    def read(cls, environment: Environment) -> Self: ...


S = TypeVar("S", bound=Settings)


def load(settings: type[S], environ: Mapping[str, str] | None = None) -> S:
    """``load(LocalSettings)``, once, in a program's main. Tests hand in ``environ``; None is the process's own. Of
    variables that hold secrets, ``NAME_FILE`` may name a file instead (``secret_files``).

    Raises ConfigurationError, which names the variable and the remedy.
    """
    return settings.read(Environment(with_secret_files(os.environ if environ is None else environ)))


def load_service(settings: type[S], component: str, environ: Mapping[str, str] | None = None) -> tuple[S, list[str]]:
    """As ``load``, in the main of a service, and what its operator should hear of at its start, a line each: variables
    that mean nothing to it, and what is probably not meant in the gateway's configuration. Never a value of a variable.

    Raises ConfigurationError.
    """
    environment = Environment(with_secret_files(os.environ if environ is None else environ))
    loaded = settings.read(environment)
    return loaded, [*unused(environment.given, environment.asked, component), *gateway_warnings(environment)]


def misspelt_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables that look like ours and are not, a line each with the closest name."""
    files = {name + SUFFIX for name in SECRET_NAMES}
    return misspelt(name for name in (os.environ if environ is None else environ) if name not in files)

"""Variables by type. What is wrong with one is told with its name, what was given (never of a secret) and the remedy.

A variable that is set to nothing counts as not set, as in the environment files of compose.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, SecretStr, Strict, ValidationError

from kdcube.config.documents import DOCUMENT_MAX_BYTES, UnreadableDocument, read_json
from kdcube.config.findings import findings_of
from kdcube.config.yaml_files import SUFFIXES, json_of
from kdcube.protocol.errors import ConfigurationError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
"""Of documents: ``"5"`` and ``true`` are no numbers, and each field says its limits."""

Model = TypeVar("Model", bound=BaseModel)
Choice = TypeVar("Choice", bound=StrEnum)


class Environment:
    """A reader of ``variables``. Every method raises ConfigurationError."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._asked: set[str] = set()

    @property
    def given(self) -> frozenset[str]:
        """The names that are set to something."""
        return frozenset(name for name, value in self._variables.items() if value.strip())

    @property
    def asked(self) -> frozenset[str]:
        """The names that were read so far, set or not."""
        return frozenset(self._asked)

    def optional(self, name: str) -> str | None:
        self._asked.add(name)
        return self._variables.get(name, "").strip() or None

    def text(self, name: str, default: str) -> str:
        return self.optional(name) or default

    def required(self, name: str, remedy: str) -> str:
        value = self.optional(name)
        if value is None:
            raise ConfigurationError(name, f"is not set; {remedy}")
        return value

    def secret(self, name: str) -> SecretStr | None:
        """Taken as it is, white space included."""
        self._asked.add(name)
        value = self._variables.get(name)
        return SecretStr(value) if value else None

    def path(self, name: str, default: Path | None = None) -> Path | None:
        value = self.optional(name)
        return default if value is None else Path(value).expanduser()

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        value = self.optional(name)
        if value is None:
            return default
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not minimum <= number <= maximum:
            raise ConfigurationError(name, f"is {value!r}; give a whole number from {minimum} to {maximum}")
        return number

    def seconds(self, name: str, default: float, *, minimum: float, maximum: float) -> float:
        value = self.optional(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not minimum <= number <= maximum:  # so that NaN fails as well
            raise ConfigurationError(name, f"is {value!r}; give seconds from {minimum:g} to {maximum:g}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        value = self.optional(name)
        if value is None:
            return default
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise ConfigurationError(name, f"is {value!r}; give 1 or 0")

    def choice(self, name: str, choices: type[Choice], default: Choice) -> Choice:
        value = self.optional(name)
        if value is None:
            return default
        try:
            return choices(value.lower())
        except ValueError:
            raise ConfigurationError(name, f"is {value!r}; give one of {', '.join(choices)}") from None

    def document(self, name: str, model: type[Model], *, or_file: bool = False) -> Model | None:
        """A JSON document, or with ``or_file`` the path of a file that holds one, or YAML. None when it is not set."""
        text = self.optional(name)
        if text is None:
            return None
        if or_file and not text.startswith(("{", "[")):
            return read_document(name, model, Path(text).expanduser())
        return parse_document(name, model, text)


def read_document(name: str, model: type[Model], path: Path) -> Model:
    """A file of JSON, or of YAML by its suffix; ``name`` is the variable that named it. Raises ConfigurationError."""
    text = _read_file(name, path)
    try:
        return parse_document(name, model, json_of(text) if path.suffix in SUFFIXES else text)
    except UnreadableDocument as error:
        raise ConfigurationError(name, f"{path} {error}") from None


def parse_document(name: str, model: type[Model], text: str) -> Model:
    """``text`` as a ``model``. Raises ConfigurationError with the path of each field that is wrong, and no text of it:
    it may hold credentials.
    """
    try:
        return model.model_validate(read_json(text))
    except UnreadableDocument as error:
        raise ConfigurationError(name, str(error)) from None
    except ValidationError as error:
        raise ConfigurationError(name, "; ".join(map(str, findings_of(error, model, values=False)))) from None


def _read_file(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(DOCUMENT_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        remedy = "give JSON, or the path of a file of JSON or YAML"
        raise ConfigurationError(name, f"cannot read {path}: {reason}; {remedy}") from None
    if len(content) > DOCUMENT_MAX_BYTES:
        raise ConfigurationError(name, f"{path} is larger than {DOCUMENT_MAX_BYTES} bytes")
    return text

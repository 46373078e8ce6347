"""Where a secret of the deployment is. Never what it is: a text that may be one is refused, and not repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from kdcube.config.secrets import NAMES, Vault

FORMS = "file:PATH, env:NAME, sm:NAME or ssm:NAME, the latter two with #KEY for a member of a JSON object"
PATTERN = r"^(file|env|sm|ssm):.+$"

_PATH = re.compile(r"[A-Za-z0-9_./-][A-Za-z0-9_.@+/-]{0,1023}")
_KEY = re.compile(r"[^#\x00-\x1f\x7f]{1,256}")
_IN_AWS = (Vault.SECRETS_MANAGER, Vault.PARAMETER_STORE)


@dataclass(frozen=True, slots=True)
class Reference:
    """``file:`` is a path, from the folder of kdcube.yaml on; ``env:`` a variable of whoever deploys."""

    vault: Vault
    name: str
    key: str | None = None

    @property
    def in_aws(self) -> bool:
        return self.vault in _IN_AWS

    @classmethod
    def parse(cls, given: object) -> Self:
        """Raises ValueError, whose message does not repeat ``given``."""
        if not isinstance(given, str):
            raise ValueError(f"must be a reference, not the secret itself: {FORMS}")
        scheme, colon, rest = given.partition(":")
        try:
            vault = Vault(scheme)
        except ValueError:
            vault = None
        if vault is None or not colon:
            raise ValueError(f"must be a reference, not the secret itself: {FORMS}")
        name, sharp, key = rest.partition("#") if vault in _IN_AWS else (rest, "", "")
        pattern = _PATH if vault is Vault.FILE else NAMES[vault]
        if not pattern.fullmatch(name):
            raise ValueError(f"names nothing that {vault}: can hold; give {FORMS}")
        if sharp and not _KEY.fullmatch(key):
            raise ValueError("must name a member of a JSON object behind #, of 1 to 256 characters")
        return cls(vault, name, key if sharp else None)

    def __str__(self) -> str:
        return f"{self.vault}:{self.name}" + (f"#{self.key}" if self.key is not None else "")


class _Parsed:
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            Reference.parse, serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": PATTERN}


ReferenceText = Annotated[Reference, _Parsed()]
"""A field that is written as a text such as ``sm:acme/support#session``."""

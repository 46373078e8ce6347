"""What all parts of the descriptor are made of."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kdcube.config.documents import shown
from kdcube.config.sections import Section
from kdcube.deploy.proxy import check_host
from kdcube.protocol.errors import InvalidInput


class Part(Section):
    """A part of the descriptor. What may be left out is left out, and never null."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        own = handler.resolve_ref_schema(found)
        for name, field in own.get("properties", {}).items():
            own["properties"][name] = _without_null(field)
        return found


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == len(field.get("anyOf", ())):
        return field
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    if len(options) == 1:
        return {**options[0], **rest}
    return {**rest, "anyOf": options}


Flag = Annotated[bool, Strict()]

_REGISTRY = r"(?:[a-z0-9.-]+(?::\d{1,5})?/)?"
_TAG, _DIGEST = r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?", r"(@sha256:[0-9a-f]{64})?"
_IMAGE = re.compile(rf"{_REGISTRY}[a-z0-9][a-z0-9._/-]{{0,200}}{_TAG}{_DIGEST}")
_ABSOLUTE = re.compile(r"/[^\x00-\x1f\x7f\"'\\$;{}:]*")
_FOLDER = re.compile(r"[./A-Za-z0-9_][^\x00-\x1f\x7f\"'\\$;{}:]*")
_STORAGE = re.compile(
    r"file:///[^\x00-\x1f\x7f\"'\\$;{}?#]+|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/=-]*)?"
)


def _host(text: str) -> str:
    try:
        check_host("it", text)
    except InvalidInput:
        raise ValueError(f"is {shown(text)}; give the name of a host, such as kdcube.example.org") from None
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(f"is {shown(text)}; give a network, such as 10.0.0.0/16") from None


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"is {shown(text)}; give NAME:TAG, or NAME@sha256: and 64 digits")
    if "@" not in text and ":" not in text.rpartition("/")[2]:
        raise ValueError(f"is {shown(text)}, which names no version; give NAME:TAG, or NAME@sha256: and 64 digits")
    return text


def _absolute(text: str) -> str:
    if not _ABSOLUTE.fullmatch(text):
        raise ValueError(f"is {shown(text)}; give an absolute path without quotes or : ; $ {{ }}")
    return text


def _folder(text: str) -> str:
    if not _FOLDER.fullmatch(text):
        raise ValueError(f"is {shown(text)}; give a folder without quotes or : ; $ {{ }}")
    return text


def _storage(text: str) -> str:
    if not _STORAGE.fullmatch(text):
        raise ValueError(f"is {shown(text)}; give file:///FOLDER or s3://BUCKET/PREFIX")
    return text


Host = Annotated[str, AfterValidator(_host)]
NetworkText = Annotated[str, AfterValidator(_network)]
"""A network of IPv4 or IPv6, as text."""
Image = Annotated[str, AfterValidator(_image)]
"""With a tag or a digest."""
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Folder = Annotated[str, AfterValidator(_folder)]
"""Of whoever deploys: absolute, or from the folder of kdcube.yaml on."""
StoragePath = Annotated[str, AfterValidator(_storage)]


def like(pattern: str, example: str) -> Any:
    """A text of a pattern, told by an example."""
    return Field(pattern=pattern, examples=[example])


Name = Annotated[str, like(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", "kdcube")]
Region = Annotated[str, like(r"^[a-z]{2}(-[a-z]+)+-[0-9]$", "eu-west-1")]


def is_by_digest(image: str) -> bool:
    return "@sha256:" in image

"""Documents of the configuration, as they are given and stored, and what they resolve to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kdcube.config.gateway import GatewayConfig
from kdcube.protocol.errors import KDCubeError


class InvalidDocument(KDCubeError):
    """The configuration cannot be run. ``errors`` are (path, message)."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {message}" if path else message for path, message in errors))
        self.errors = errors


def resolved(document: Mapping[str, Any], scope: tuple[str, str]) -> tuple[GatewayConfig, list[tuple[str, str]]]:
    """What ``document`` means for the tenant and project of ``scope``, and warnings. Raises InvalidDocument."""
    try:
        config = GatewayConfig.model_validate_json(json.dumps(document))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidDocument([(".".join(map(str, one["loc"])), one["msg"]) for one in found]) from None
    if (config.tenant, config.project) != scope:
        field = "tenant" if config.tenant != scope[0] else "project"
        raise InvalidDocument([(field, f"cannot be changed: this installation's is {scope[field == 'project']}")])
    return config, []

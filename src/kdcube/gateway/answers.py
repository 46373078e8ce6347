"""Answers of ingress's own: JSON, encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_JSON = msgspec.json.Encoder()


def json_response(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(_JSON.encode(body), status, media_type="application/json")

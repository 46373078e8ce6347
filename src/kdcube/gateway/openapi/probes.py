"""Whether a process lives and whether it should be sent requests."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import TEXT, Json, array_of, content, object_of, operation, ref

SCHEMAS: Json = {
    "Health": object_of(
        {"status": {"const": "alive"}, "service": TEXT, "instance": TEXT, "version": TEXT, "config_checksum": TEXT}
    ),
    "Ready": object_of(
        {"status": {"const": "ready"}, "checks": {"type": "object", "additionalProperties": TEXT}, "service": TEXT}
    ),
    "NotReady": {
        "allOf": [
            ref("Error"),
            object_of({"status": {"enum": ["not_ready", "draining"]}, "failing": array_of(TEXT)}),
        ]
    },
}

PATHS: Json = {
    "/health": {"get": operation("Whether the process lives", content(ref("Health")), errors=(), public=True)},
    "/ready": {
        "get": {
            **operation("Whether it can be sent requests", content(ref("Ready")), errors=(), public=True),
            "responses": {
                "200": {"description": "Ready", "content": content(ref("Ready"))},
                "503": {"description": "Not ready", "content": content(ref("NotReady"))},
            },
        }
    },
}

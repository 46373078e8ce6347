"""The OpenAPI document of proxylogin."""

from __future__ import annotations

from kdcube.gateway.openapi import probes
from kdcube.gateway.openapi.shapes import (
    ERROR,
    TEXT,
    USER_TYPE,
    Json,
    array_of,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)

_SECONDS: Json = {"type": "number", "minimum": 0}
_SCHEMAS: Json = {
    "Error": ERROR,
    "SignedIn": object_of(
        {
            "signed_in": {"const": True},
            "user": object_of(
                {
                    "id": TEXT,
                    "username": nullable(TEXT),
                    "email": nullable(TEXT),
                    "roles": array_of(TEXT),
                    "user_type": USER_TYPE,
                }
            ),
            "signed_in_at": _SECONDS,
            "ends_at": _SECONDS,
            "ends_unused_at": _SECONDS,
        }
    ),
    "SignedOut": object_of({"signed_in": {"const": False}}),
    "SigningOut": object_of({"signed_in": {"const": False}, "provider_logout_url": nullable(TEXT)}),
    **probes.SCHEMAS,
}
_PAGE = {"text/html": {"schema": TEXT}}
_LOGIN: list[Json] = [{"login": []}, {}]


def _redirect(summary: str, *parameters: Json) -> Json:
    """What a browser is sent to. Its errors are pages for whoever accepts some."""
    described = operation(summary, {}, status=303, parameters=parameters, errors=(400,))
    described["security"] = []
    for status, answer in described["responses"].items():
        if status != "303":
            answer["content"] |= _PAGE
    described["responses"]["303"]["headers"] = {"Location": {"schema": TEXT}}
    return described


def _by_cookie(described: Json) -> Json:
    return {**described, "security": _LOGIN}


_SIGNING_OUT = _by_cookie(
    operation("Sign out here; a form is sent on to the provider", content(ref("SigningOut")), errors=(403,))
)
_SIGNING_OUT["responses"]["303"] = {
    "description": "For a form: where the browser signs out at the provider, or back to the site",
    "headers": {"Location": {"schema": TEXT}},
}
_FORM: Json = {"type": "object", "properties": {"logout_token": TEXT}, "required": ["logout_token"]}

_PATHS: Json = {
    "/auth/login": {
        "get": _redirect(
            "Sign in at the identity provider",
            parameter("query", "return_to", TEXT, "The path of this site to come back to; / without one"),
        )
    },
    "/auth/callback": {
        "get": _redirect(
            "Where the identity provider sends the browser back to",
            *(
                parameter("query", name, TEXT, description)
                for name, description in (
                    ("state", "As `/auth/login` gave it to the provider"),
                    ("code", "To be exchanged for tokens"),
                    ("error", "Instead of a code"),
                    ("iss", "Which provider it is (RFC 9207)"),
                )
            ),
        )
    },
    "/auth/session": {
        "get": _by_cookie(
            operation(
                "Who is signed in, and until when",
                content({"anyOf": [ref("SignedIn"), ref("SignedOut")]}),
                errors=(401,),
            )
        )
    },
    "/auth/logout": {"post": _SIGNING_OUT},
    "/auth/backchannel-logout": {
        "post": operation(
            "For the identity provider: signs out whom its logout token names",
            {},
            body={"application/x-www-form-urlencoded": {"schema": _FORM}},
            errors=(400, 413),
            public=True,
        )
    },
    "/auth/openapi.json": {"get": operation("This document", content({"type": "object"}), errors=(), public=True)},
    **probes.PATHS,
}


def openapi_document(version: str, cookie: str) -> Json:
    """OpenAPI 3.1. ``cookie``: the name under which logins are."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KDCube proxylogin",
            "version": version,
            "description": "Signing in at an OpenID provider, for browsers.",
        },
        "servers": [{"url": "/"}],
        "paths": _PATHS,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"login": {"type": "apiKey", "in": "cookie", "name": cookie}},
        },
    }

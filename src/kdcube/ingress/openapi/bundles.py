"""The registry of bundles, for administrators, and the webhook by which servers of git tell of news."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    COUNT,
    ID,
    OWNED,
    TEXT,
    Json,
    array_of,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)
from kdcube.ingress.requests import REASON_MAX_CHARS

_BOOL: Json = {"type": "boolean"}
_PROCS = nullable(array_of(ref("BundleProc")))
_MAYBE_RELEASE = nullable(ref("BundleRelease"))

SCHEMAS: Json = {
    "BundleRelease": object_of(
        {
            "bundle_id": TEXT,
            "number": COUNT,
            "entry": nullable({"type": "object"}),
            "revision": nullable(TEXT),
            "state": {"enum": ["wanted", "ready", "failed"]},
            "origin": {
                "enum": ["environment", "add", "update", "remove", "reload", "rollback", "webhook", "poll"],
            },
            "author": TEXT,
            "reason": nullable(TEXT),
            "problem": nullable(TEXT),
            "created_ms": COUNT,
            "settled_ms": nullable(COUNT),
        }
    ),
    "BundleProc": object_of(
        {"instance": TEXT, "number": nullable(COUNT), "version": nullable(TEXT), "problem": nullable(TEXT)}
    ),
    "RegisteredBundle": object_of(
        {
            "bundle_id": TEXT,
            "default": _BOOL,
            "served": _MAYBE_RELEASE,
            "last": ref("BundleRelease"),
            "procs": _PROCS,
        },
        {"base": ref("BundleRelease")},
    ),
    "RegisteredBundles": object_of(
        {
            "sequence": COUNT,
            "default_bundle_id": nullable(TEXT),
            "items": array_of(ref("RegisteredBundle")),
            "this_instance": {"type": "object"},
        }
    ),
    "DefaultBundle": object_of({"sequence": COUNT, "default_bundle_id": nullable(TEXT)}),
    "BundleReleaseTold": object_of(
        {"release": ref("BundleRelease"), "served": _BOOL, "active": _BOOL, "procs": _PROCS}, {"changed": _BOOL}
    ),
    "BundleVerdict": object_of(
        {"valid": _BOOL},
        {"errors": array_of({"type": "object"}), "entry": {"type": "object"}, "fields": array_of(TEXT)},
    ),
    "BundleReleases": object_of({"items": array_of(ref("BundleRelease")), "next": nullable(TEXT)}),
    "PushHeard": object_of({"status": {"enum": ["wanted", "known", "ignored"]}}, {"release": COUNT, "reason": TEXT}),
}

_UNDER = "/admin/bundles"
_ONE = _UNDER + "/{bundle_id}"
_ENTRY = content({"type": "object"})
_TOLD = content(ref("BundleReleaseTold"))
_CHANGING = (400, 401, 403, 408, 409, 412, 413)
_BUNDLE = parameter("path", "bundle_id", ID, "The bundle")
_REASON = parameter("query", "reason", {"type": "string", "maxLength": REASON_MAX_CHARS}, "For the history")
_MATCH = parameter("header", "If-Match", TEXT, "The number of the bundle's last release, upon which the change builds")
_PAGE = (
    parameter("query", "cursor", {"type": "string", "pattern": "^(r1\\.[0-9]{1,18})?$"}, "`next` of the page before"),
    parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": 100}, "Items"),
)


def _tried(member: str) -> Json:
    return {**object_of({"bundle_id": ID, member: {"type": "object"}}), "additionalProperties": False}


PATHS: Json = {
    _UNDER: {
        "get": operation(
            "The bundles that are registered, and what each proc runs",
            content(ref("RegisteredBundles")),
            errors=(401, 403),
        ),
        "post": operation(
            "Register a bundle: an entry with its `id`. It is served when it has been prepared",
            _TOLD,
            status=202,
            body=_ENTRY,
            parameters=(_REASON,),
            errors=_CHANGING,
        ),
        "patch": operation(
            "Say which bundle gets messages that name none",
            content(ref("DefaultBundle")),
            body=content(object_of({"default_bundle_id": TEXT})),
            parameters=(parameter("header", "If-Match", TEXT, "The sequence of the registry"),),
            errors=_CHANGING,
        ),
    },
    f"{_UNDER}/validate": {
        "post": operation(
            "A dry run of an `entry` or of a `patch` for `bundle_id`",
            content(ref("BundleVerdict")),
            body=content({"oneOf": [_tried("entry"), _tried("patch")]}),
            errors=(400, 401, 403, 408, 413),
        )
    },
    _ONE: {
        "parameters": [_BUNDLE],
        "get": operation("A bundle, and what each proc runs of it", content(ref("RegisteredBundle")), errors=OWNED),
        "put": operation(
            "Replace its entry",
            _TOLD,
            status=202,
            body=_ENTRY,
            parameters=(_MATCH, _REASON),
            errors=(*_CHANGING, 404, 428),
        ),
        "patch": operation(
            "Change a part of its entry, by a JSON merge patch",
            _TOLD,
            status=202,
            body=_ENTRY,
            parameters=(_MATCH, _REASON),
            errors=(*_CHANGING, 404),
        ),
        "delete": operation(
            "Take it away; turns that run finish",
            _TOLD,
            parameters=(
                _MATCH,
                _REASON,
                parameter("query", "default", ID, "Which bundle gets messages that name none from then on"),
            ),
            errors=(400, 409, 412, *OWNED),
        ),
    },
    f"{_ONE}/reload": {
        "parameters": [_BUNDLE],
        "post": operation(
            "Look for news: the same entry, its ref resolved anew",
            _TOLD,
            status=202,
            parameters=(_MATCH, _REASON),
            errors=(400, 409, 412, *OWNED),
        ),
    },
    f"{_ONE}/rollback": {
        "parameters": [_BUNDLE],
        "post": operation(
            "Back to an earlier release: its entry and commit; by default the last one that differs",
            _TOLD,
            status=202,
            body=content(object_of({}, {"number": {"type": "integer", "minimum": 1}})),
            parameters=(_MATCH, _REASON),
            errors=(*_CHANGING, 404),
        ),
    },
    f"{_ONE}/releases": {
        "parameters": [_BUNDLE],
        "get": operation(
            "Its releases, newest first", content(ref("BundleReleases")), parameters=_PAGE, errors=(400, *OWNED)
        ),
    },
    _ONE + "/releases/{number}": {
        "parameters": [_BUNDLE, parameter("path", "number", {"type": "integer", "minimum": 1}, "The release")],
        "get": operation("A release, and whether all procs run it", _TOLD, errors=OWNED),
    },
    "/webhooks/bundles/{bundle_id}": {
        "parameters": [_BUNDLE],
        "post": operation(
            "For servers of git: something was pushed. Proven by the bundle's secret, as GitHub, Gitea and GitLab do",
            content(ref("PushHeard")),
            body=content({"type": "object"}),
            errors=(400, 403, 404, 413),
            public=True,
        ),
    },
}
PATHS["/webhooks/bundles/{bundle_id}"]["post"]["responses"]["202"] = {
    "description": "A release is wanted",
    "content": content(ref("PushHeard")),
}

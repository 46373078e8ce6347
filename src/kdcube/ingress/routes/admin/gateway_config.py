"""``/admin/gateway-config``: the configuration that all services run, changed while they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.gateway import GATEWAY_MAX_BYTES
from kdcube.gateway.answers import json_response
from kdcube.gateway.changes import patched, shown
from kdcube.gateway.documents import InvalidDocument
from kdcube.gateway.editing import Base, Editing, Proposal
from kdcube.gateway.errors import Conflict, NotFound
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.live import LiveGateway
from kdcube.ingress.routes.admin.changing import (
    Instances,
    Json,
    attempt,
    check_match,
    invalid,
    read_object,
    tagged,
    told_findings,
)
from kdcube.ingress.routes.admin.pages import page_of
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.gateway_configs import MAX_PAGE, Origin, Superseded
from kdcube.protocol.errors import InvalidInput

_OF_CONFIG = ("instance", "component", "state", "seen_s", "config_checksum", "config_version", "config_problem")
_PENDING = "config_restart_pending"


class GatewayConfigRoutes:
    """For administrators. Every attempt to change something is in the audit log."""

    def __init__(
        self, callers: Callers, editing: Editing, live: LiveGateway, audit: Audit, instances: Instances
    ) -> None:
        self._callers = callers
        self._editing = editing
        self._live = live
        self._audit = audit
        self._instances = instances

    async def show(self, request: Request) -> Response:
        await self._callers.administrator(request)
        base = await self._editing.base()
        environment = self._editing.propose(base, self._editing.environment())
        stored = base.stored
        body: Json = {
            "version": base.version,
            "checksum": base.checksum,
            "origin": stored.origin if stored else "environment",
            "author": stored and stored.author,
            "reason": stored and stored.reason,
            "created_ms": stored and stored.created_ms,
            "document": base.document,
            "resolved": base.config.document(),
            "environment": {
                "checksum": environment.config.checksum,
                "same": not environment.changes,
                "changes": shown(environment.changes),
            },
            "this_instance": self._live.report("ingress"),
            "instances": _of_config(await self._instances()),
        }
        return tagged(json_response(body), base.checksum)

    async def validate(self, request: Request) -> Response:
        """A dry run: nothing is stored."""
        await self._callers.administrator(request)
        given = await read_object(request, GATEWAY_MAX_BYTES)
        if len(given) != 1 or not isinstance(given.get("document", given.get("patch")), dict):
            raise InvalidInput("document", "give an object as document, or as patch")
        base = await self._editing.base()
        document = given["document"] if "document" in given else patched(base.document, given["patch"])
        try:
            proposal = self._editing.propose(base, document)
        except InvalidDocument as error:
            return json_response({"valid": False, "errors": told_findings(error.findings)})
        return json_response({"valid": True, "base_version": base.version, **_told(proposal), **_resolved(proposal)})

    async def put(self, request: Request) -> Response:
        async def document(_: Base) -> Mapping[str, Any]:
            return await read_object(request, GATEWAY_MAX_BYTES)

        return await self._change(request, "put", document, must_match=True)

    async def patch(self, request: Request) -> Response:
        async def document(base: Base) -> Mapping[str, Any]:
            return patched(base.document, await read_object(request, GATEWAY_MAX_BYTES))

        return await self._change(request, "patch", document)

    async def reset(self, request: Request) -> Response:
        async def document(_: Base) -> Mapping[str, Any]:
            return self._editing.environment()

        return await self._change(request, "reset", document)

    async def rollback(self, request: Request) -> Response:
        async def document(_: Base) -> Mapping[str, Any]:
            version = (await read_object(request, GATEWAY_MAX_BYTES)).get("version")
            if type(version) is not int or not 0 < version < 2**62:
                raise InvalidInput("version", "give the number of a version")
            stored = await self._editing.version(version)
            if stored is None:
                raise NotFound("There is no such version.", error="version_not_found", field="version")
            return stored.document

        return await self._change(request, "rollback", document)

    async def history(self, request: Request) -> Response:
        await self._callers.administrator(request)
        cursor, limit = page_of(request, MAX_PAGE, 20)
        items, following = await self._editing.history(cursor, limit)
        return json_response({"items": items, "next": following})

    async def _change(
        self,
        request: Request,
        origin: Origin,
        document: Callable[[Base], Awaitable[Mapping[str, Any]]],
        *,
        must_match: bool = False,
    ) -> Response:
        async def work(actor: Actor, reason: str | None) -> Response:
            return await self._changed(request, actor, origin, document, must_match, reason)

        return await attempt(self._callers, self._audit, request, f"gateway_config.{origin}", "version", work)

    async def _changed(
        self,
        request: Request,
        actor: Actor,
        origin: Origin,
        document: Callable[[Base], Awaitable[Mapping[str, Any]]],
        must_match: bool,
        reason: str | None,
    ) -> Response:
        base = await self._editing.base()
        required = "Say by If-Match which version is to be replaced: its checksum or its number, or * for any."
        now = f"The configuration is version {base.version} now, with the checksum {base.checksum}: look again."
        check_match(request, base.matches, required=required if must_match else None, now=now)
        try:
            proposal = self._editing.propose(base, await document(base))
        except InvalidDocument as error:
            raise invalid(error.findings, str(error), error="invalid_config") from None
        if not proposal.changes and proposal.document == base.document:
            return tagged(json_response({"changed": False, "version": base.version, **_told(proposal)}), base.checksum)
        stored = await self._editing.store(proposal, actor, origin, reason)
        if isinstance(stored, Superseded):
            raise Conflict("Somebody else changed the configuration meanwhile: look again.", error="superseded")
        body = {"changed": True, "version": stored.version, **_told(proposal), **_resolved(proposal)}
        return tagged(json_response(body), stored.checksum)


def _of_config(instances: list[Json] | None) -> list[Json] | None:
    if instances is None:
        return None
    shown = (*_OF_CONFIG, _PENDING)
    return [{name: instance[name] for name in shown if name in instance} for instance in instances]


def _told(proposal: Proposal) -> Json:
    return {
        "checksum": proposal.config.checksum,
        "changes": shown(proposal.changes),
        "needs_restart": proposal.restarts,
        "warnings": told_findings(proposal.warnings),
    }


def _resolved(proposal: Proposal) -> Json:
    return {"resolved": proposal.config.document()}

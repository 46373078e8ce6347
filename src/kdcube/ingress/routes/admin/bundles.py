"""``/admin/bundles``: the registry of bundles, changed while they are served."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.answers import json_response
from kdcube.gateway.bundles.activity import is_active, procs_of
from kdcube.gateway.bundles.entries import InvalidEntry, changed_fields, document_of, given_entry, says_the_same
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.bundles.wanting import Wanting
from kdcube.gateway.changes import merged
from kdcube.gateway.errors import Conflict, NotFound
from kdcube.gateway.identity.callers import Callers
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
from kdcube.postgres.release_records import Crowded, Origin, Release, Repeated, Standing, Superseded
from kdcube.postgres.releases import MAX_PAGE, Releases, Wanted
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_bundle_id

BODY_MAX_BYTES = 256 * 1024

Work = Callable[[Actor, str | None], Awaitable[Response]]


class BundleRoutes:
    """For administrators. Every attempt to change something is in the audit log."""

    def __init__(
        self,
        callers: Callers,
        wanting: Wanting,
        releases: Releases,
        live: LiveBundles,
        audit: Audit,
        instances: Instances,
    ) -> None:
        self._callers = callers
        self._wanting = wanting
        self._releases = releases
        self._live = live
        self._audit = audit
        self._instances = instances

    # ---- looking

    async def list(self, request: Request) -> Response:
        await self._callers.administrator(request)
        registry = await self._releases.served()
        instances = await self._instances()
        items: list[Json] = []
        for bundle_id, last in sorted(registry.last.items()):
            served = registry.releases.get(bundle_id)
            if served is not None or last.entry is not None:
                items.append(
                    {
                        "bundle_id": bundle_id,
                        "default": bundle_id == registry.default_bundle_id,
                        "served": served and _view(served),
                        "last": _view(last),
                        "procs": procs_of(bundle_id, instances),
                    }
                )
        body = {
            "sequence": registry.sequence,
            "default_bundle_id": registry.default_bundle_id,
            "items": items,
            "this_instance": self._live.report(),
        }
        return tagged(json_response(body), registry.sequence)

    async def show(self, request: Request) -> Response:
        await self._callers.administrator(request)
        standing = await self._standing(request)
        last, served = standing.last, standing.served
        body = {
            "bundle_id": last.bundle_id,
            "default": last.bundle_id == self._live.current.default_bundle_id,
            "served": served and _view(served),
            "last": _view(last),
            "base": _view(standing.base),
            "procs": procs_of(last.bundle_id, await self._instances()),
        }
        return tagged(json_response(body), last.number)

    async def history(self, request: Request) -> Response:
        await self._callers.administrator(request)
        standing = await self._standing(request)
        cursor, limit = page_of(request, MAX_PAGE, 20)
        page = await self._releases.history(standing.last.bundle_id, cursor=cursor, limit=limit)
        return json_response({"items": [_view(release) for release in page.items], "next": page.next})

    async def release(self, request: Request) -> Response:
        await self._callers.administrator(request)
        standing = await self._standing(request)
        number: str = request.path_params["number"]
        known = number.isascii() and number.isdecimal() and len(number) <= 18
        release = await self._releases.get(standing.last.bundle_id, int(number)) if known else None
        if release is None:
            raise _no_release("number")
        return json_response(await self._told(release, standing.served))

    async def validate(self, request: Request) -> Response:
        """A dry run: nothing is stored, fetched or loaded."""
        await self._callers.administrator(request)
        given = await read_object(request, BODY_MAX_BYTES)
        bundle_id, members = given.get("bundle_id"), set(given) - {"bundle_id"}
        if not isinstance(bundle_id, str):
            raise InvalidInput("bundle_id", "give the id of a bundle")
        if members not in ({"entry"}, {"patch"}) or not isinstance(given[next(iter(members))], dict):
            raise InvalidInput("entry", "give an object as entry, or as patch")
        check_bundle_id("bundle_id", bundle_id)
        standing = await self._releases.standing(bundle_id)
        before = standing and standing.base.entry
        try:
            entry = given_entry(bundle_id, given["entry"] if "entry" in given else merged(before, given["patch"]))
        except InvalidEntry as error:
            return json_response({"valid": False, "errors": told_findings(error.findings)})
        document = document_of(entry)
        return json_response({"valid": True, "entry": document, "fields": changed_fields(before, document)})

    # ---- changing

    async def make_default(self, request: Request) -> Response:
        async def work(actor: Actor, _: str | None) -> Response:
            given = await read_object(request, BODY_MAX_BYTES)
            bundle_id = given.get("default_bundle_id")
            if set(given) != {"default_bundle_id"} or not isinstance(bundle_id, str):
                raise InvalidInput("default_bundle_id", "give the id of the bundle that gets messages which name none")
            now = await self._releases.served()
            check_match(
                request,
                lambda tag: tag in ("*", str(now.sequence)),
                required=None,
                now=f"The registry is at sequence {now.sequence} now: look again.",
            )
            if bundle_id not in now.releases:
                raise InvalidInput("default_bundle_id", f"{bundle_id} is not served")
            registry = await self._wanting.make_default(bundle_id, actor, now.sequence)
            if registry is None:
                raise _superseded()
            body = {"sequence": registry.sequence, "default_bundle_id": registry.default_bundle_id}
            return tagged(json_response(body), registry.sequence)

        return await attempt(self._callers, self._audit, request, "bundle.default", "registry", work)

    async def add(self, request: Request) -> Response:
        async def work(actor: Actor, reason: str | None) -> Response:
            given = await read_object(request, BODY_MAX_BYTES)
            bundle_id = given.get("id")
            if not isinstance(bundle_id, str):
                raise InvalidInput("id", "give the id of the bundle")
            check_bundle_id("id", bundle_id)
            entry = _entry(bundle_id, given)
            standing = await self._releases.standing(bundle_id)
            if standing is not None and standing.base.entry is not None:
                raise Conflict("There is such a bundle: update it.", error="bundle_exists", field="id")
            wanted = await self._wanting.change(bundle_id, entry, standing, origin="add", actor=actor, reason=reason)
            return await self._answered(wanted)

        return await attempt(self._callers, self._audit, request, "bundle.add", "bundle", work)

    async def put(self, request: Request) -> Response:
        async def changed(standing: Standing, actor: Actor, reason: str | None) -> Response:
            entry = _entry(standing.last.bundle_id, await read_object(request, BODY_MAX_BYTES))
            return await self._updated(standing, entry, actor, reason)

        required = "Say by If-Match upon which release the change builds: its number, or * for any."
        return await self._change(request, "update", changed, required=required)

    async def patch(self, request: Request) -> Response:
        async def changed(standing: Standing, actor: Actor, reason: str | None) -> Response:
            document = merged(standing.base.entry, await read_object(request, BODY_MAX_BYTES))
            return await self._updated(standing, _entry(standing.last.bundle_id, document), actor, reason)

        return await self._change(request, "update", changed)

    async def remove(self, request: Request) -> Response:
        """The default bundle goes only when another one is named in its place, unless it is the last."""

        async def changed(standing: Standing, actor: Actor, reason: str | None) -> Response:
            bundle_id = standing.last.bundle_id
            registry = await self._releases.served()
            others = {*registry.releases} - {bundle_id}
            named = request.query_params.get("default") or None
            if named is not None and named not in others:
                raise InvalidInput("default", f"{named} is not served, or is what is to be removed")
            if registry.default_bundle_id == bundle_id and named is None and others:
                raise Conflict(
                    f"It is the default bundle: name another one as default, of {', '.join(sorted(others))}.",
                    error="default_bundle",
                    field="default",
                )
            is_default = registry.default_bundle_id == bundle_id
            wanted = await self._wanting.change(
                bundle_id,
                None,
                standing,
                origin="remove",
                actor=actor,
                reason=reason,
                default=named if is_default or named is not None else False,
            )
            return await self._answered(wanted)

        return await self._change(request, "remove", changed)

    async def reload(self, request: Request) -> Response:
        async def changed(standing: Standing, actor: Actor, reason: str | None) -> Response:
            wanted = await self._wanting.reload(standing.last.bundle_id, origin="reload", actor=actor, reason=reason)
            if wanted is None:
                raise _no_bundle()
            return await self._answered(wanted)

        return await self._change(request, "reload", changed)

    async def rollback(self, request: Request) -> Response:
        async def changed(standing: Standing, actor: Actor, reason: str | None) -> Response:
            target = await self._target(standing, await read_object(request, BODY_MAX_BYTES, optional=True))
            return await self._answered(await self._wanting.roll_back(standing, target, actor=actor, reason=reason))

        return await self._change(request, "rollback", changed, removed=True)

    # ----

    async def _change(
        self,
        request: Request,
        origin: Origin,
        changed: Callable[[Standing, Actor, str | None], Awaitable[Response]],
        *,
        required: str | None = None,
        removed: bool = False,
    ) -> Response:
        """``removed``: whether a bundle that was taken away is meant as well."""

        async def work(actor: Actor, reason: str | None) -> Response:
            standing = await self._standing(request)
            if standing.base.entry is None and not removed:
                raise _no_bundle()
            number = standing.last.number
            check_match(
                request,
                lambda tag: tag in ("*", str(number)),
                required=required,
                now=f"The last release of the bundle is {number} now: look again.",
            )
            return await changed(standing, actor, reason)

        subject = request.path_params["bundle_id"][:128]
        return await attempt(self._callers, self._audit, request, f"bundle.{origin}", subject, work)

    async def _standing(self, request: Request) -> Standing:
        bundle_id: str = request.path_params["bundle_id"]
        try:
            check_bundle_id("bundle_id", bundle_id)
        except InvalidInput:
            raise _no_bundle() from None
        standing = await self._releases.standing(bundle_id)
        if standing is None:
            raise _no_bundle()
        return standing

    async def _updated(self, standing: Standing, entry: BundleEntry, actor: Actor, reason: str | None) -> Response:
        if says_the_same(standing.base.entry, entry):
            return json_response({"changed": False, **await self._told(standing.base, standing.served)})
        wanted = await self._wanting.change(entry.id, entry, standing, origin="update", actor=actor, reason=reason)
        return await self._answered(wanted)

    async def _target(self, standing: Standing, given: Json) -> Release:
        if not given:
            target = await self._wanting.target(standing)
            if target is None:
                raise NotFound("There is no earlier release that was ready and differs.", error="release_not_found")
            return target
        number = given.get("number")
        if set(given) != {"number"} or type(number) is not int or not 0 < number < 2**62:
            raise InvalidInput("number", "give the number of a release")
        target = await self._releases.get(standing.last.bundle_id, number)
        if target is None:
            raise _no_release("number")
        if target.state != "ready" or target.entry is None:
            raise InvalidInput("number", f"release {number} was never served")
        return target

    async def _answered(self, wanted: Wanted) -> Response:
        match wanted:
            case Release():
                status = 202 if wanted.state == "wanted" else 200
                body = {"changed": True, **await self._told(wanted, None)}
                return tagged(json_response(body, status), wanted.number)
            case Superseded():
                raise _superseded()
            case Crowded():
                raise Conflict(
                    f"{wanted.wanted} releases of the bundle wait to be prepared already.", error="too_many_wanted"
                )
            case Repeated():
                return json_response({"changed": False, **await self._told(wanted.release, None)})

    async def _told(self, release: Release, served: Release | None) -> Json:
        procs = procs_of(release.bundle_id, await self._instances())
        return {
            "release": _view(release),
            "served": served is not None and served.number == release.number,
            "active": is_active(release, procs),
            "procs": procs,
        }


def _entry(bundle_id: str, document: Json) -> BundleEntry:
    try:
        return given_entry(bundle_id, document)
    except InvalidEntry as error:
        raise invalid(error.findings, str(error), error="invalid_bundle") from None


def _no_bundle() -> NotFound:
    return NotFound("There is no such bundle.", error="bundle_not_found")


def _no_release(field: str) -> NotFound:
    return NotFound("There is no such release.", error="release_not_found", field=field)


def _superseded() -> Conflict:
    return Conflict("Somebody else changed the registry meanwhile: look again.", error="superseded")


def _view(release: Release) -> dict[str, Any]:
    return dataclasses.asdict(release)

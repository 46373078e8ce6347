"""Changes of the configuration by administrators: proposed, checked, stored as a new version, told to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kdcube.config.documents import Finding
from kdcube.config.gateway import GatewayConfig
from kdcube.config.service import ServiceSettings
from kdcube.gateway.changes import Change, changes_between, component_at_restart, rendered_elsewhere, shown
from kdcube.gateway.documents import InvalidDocument, resolved
from kdcube.gateway.following import Following
from kdcube.gateway.live import LiveGateway
from kdcube.postgres.audit import Actor
from kdcube.postgres.gateway_configs import Beneath, GatewayConfigs, Origin, StoredConfig, Superseded
from kdcube.protocol.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Base:
    """What a change builds upon: the last version, or the environment's, which is version 0."""

    version: int
    document: Mapping[str, Any]
    checksum: str
    config: GatewayConfig
    stored: StoredConfig | None

    def matches(self, tag: str) -> bool:
        """Whether an If-Match of ``tag`` means this version: by its checksum or its number; ``*`` means any."""
        return tag in ("*", self.checksum, self.config.checksum, str(self.version))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A document that can be run in place of ``base``."""

    base: Base
    document: Mapping[str, Any]
    config: GatewayConfig
    changes: Sequence[Change]
    warnings: Sequence[Finding]

    @property
    def restarts(self) -> list[dict[str, str]]:
        """Fields that change, and the component that takes each over at its next start only."""
        found = [(change.path, component_at_restart(change.path)) for change in self.changes]
        return [{"path": path, "component": component} for path, component in found if component is not None]


class Editing:
    """Edits the configuration of one installation. Methods raise StoreUnavailable."""

    def __init__(
        self, live: LiveGateway, configs: GatewayConfigs, following: Following, service: ServiceSettings
    ) -> None:
        self._live = live
        self._configs = configs
        self._following = following
        self._service = service
        self._scope = (service.gateway.tenant, service.gateway.project)

    async def base(self) -> Base:
        """What is to be run now, as PostgreSQL knows it."""
        stored = await self._configs.last()
        if stored is None:
            environment = self._service.gateway
            return Base(0, self._service.gateway_document, environment.checksum, environment, None)
        try:
            config = resolved(stored.document, self._scope).config
        except InvalidDocument:
            config = self._live.current
        return Base(stored.version, stored.document, stored.checksum, config, stored)

    def propose(self, base: Base, document: Mapping[str, Any]) -> Proposal:
        """Raises InvalidDocument."""
        valid = resolved(document, self._scope)
        changes = changes_between(base.config, valid.config)
        return Proposal(base, document, valid.config, changes, [*valid.warnings, *rendered_elsewhere(changes)])

    def environment(self) -> Mapping[str, Any]:
        """The document that the environment of this process gives."""
        return self._service.gateway_document

    async def store(
        self, proposal: Proposal, actor: Actor, origin: Origin, reason: str | None
    ) -> StoredConfig | Superseded:
        """Makes the proposal the next version, which this process applies before this returns, and tells the others.

        The first version is preceded by the environment's, so that the history is whole.
        """
        base, environment = proposal.base, self._service
        beneath = Beneath(environment.gateway_document, environment.gateway.checksum) if base.version == 0 else None
        stored = await self._configs.add(
            after=base.version,
            beneath=beneath,
            document=proposal.document,
            checksum=proposal.config.checksum,
            actor=actor,
            origin=origin,
            reason=reason,
            details={"changes": shown(proposal.changes)},
        )
        if isinstance(stored, StoredConfig):
            with suppress(StoreUnavailable):  # it is stored: this process finds it at its next look
                await self._following.look()
            await self._following.publish(stored.version)
        return stored

    async def version(self, number: int) -> StoredConfig | None:
        return await self._configs.get(number)

    async def history(self, cursor: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """A page, newest first: each version with what it changed in the one before it. Raises InvalidInput."""
        page = await self._configs.list(cursor=cursor, limit=limit)
        items = list(page.items)
        if not items:
            return [], None
        before = await self._configs.get(items[-1].version - 1) if items[-1].version > 1 else None
        chain = [*items[1:], before]
        return [self._told(stored, earlier) for stored, earlier in zip(items, chain, strict=True)], page.next

    def _told(self, stored: StoredConfig, before: StoredConfig | None) -> dict[str, Any]:
        told: dict[str, Any] = {
            "version": stored.version,
            "checksum": stored.checksum,
            "author": stored.author,
            "origin": stored.origin,
            "reason": stored.reason,
            "created_ms": stored.created_ms,
            "changes": None,
        }
        if before is not None:
            with suppress(InvalidDocument):  # of a release that said it in another way: what it changed is not known
                old, new = (resolved(one.document, self._scope).config for one in (before, stored))
                told["changes"] = shown(changes_between(old, new))
        return told

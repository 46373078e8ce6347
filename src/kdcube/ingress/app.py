"""The ingress application: its parts, opened in order, and its routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from kdcube.config.gateway import GatewayConfig
from kdcube.config.ingress import IngressSettings
from kdcube.gateway.bundles.adopting import registered_bundles
from kdcube.gateway.bundles.following import follow_bundles
from kdcube.gateway.bundles.wanting import Wanting
from kdcube.gateway.edge import Edge, with_cors
from kdcube.gateway.editing import Editing
from kdcube.gateway.foundation import open_foundation
from kdcube.gateway.identity.knowing import open_callers
from kdcube.gateway.identity.proofs import ProofWatch
from kdcube.gateway.internal import internal_port
from kdcube.gateway.measuring import watch_breaker
from kdcube.gateway.probes import Check, Probes
from kdcube.gateway.reporting import Reporting
from kdcube.gateway.routing import no_route, route
from kdcube.gateway.traffic import Traffic
from kdcube.gateway.turns.taking import open_taking
from kdcube.ingress.erasure import Erasures
from kdcube.ingress.routes import openai_errors
from kdcube.ingress.routes.admin.audit import AuditRoutes
from kdcube.ingress.routes.admin.bundles import BundleRoutes
from kdcube.ingress.routes.admin.gateway_config import GatewayConfigRoutes
from kdcube.ingress.routes.admin.monitoring import MonitoringRoutes
from kdcube.ingress.routes.admin.routing import admin_routes
from kdcube.ingress.routes.admin.turns import TurnRoutes
from kdcube.ingress.routes.api_keys import ApiKeyRoutes
from kdcube.ingress.routes.chat import ChatRoutes
from kdcube.ingress.routes.conversations import ConversationRoutes
from kdcube.ingress.routes.document import DocumentRoutes
from kdcube.ingress.routes.erasure import ErasureRoutes
from kdcube.ingress.routes.openai import OpenAIRoutes
from kdcube.ingress.routes.profile import ProfileRoutes
from kdcube.ingress.routes.webhooks import WebhookRoutes
from kdcube.ingress.streams import Streams, StreamSettings
from kdcube.postgres.database import Database
from kdcube.postgres.erasing import Erasing
from kdcube.postgres.releases import Releases
from kdcube.postgres.turns import Turns
from kdcube.redis.connection import Connection
from kdcube.redis.epoch import EpochWatch, WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.feed import Feeds
from kdcube.redis.logins import LoginCache
from kdcube.redis.sources import Sources
from kdcube.secrets.opening import open_secrets


class Ingress:
    """The running application, itself ASGI."""

    def __init__(self, app: ASGIApp, probes: Probes, streams: Streams, reporting: Reporting) -> None:
        self._app = app
        self._probes = probes
        self._streams = streams
        self._reporting = reporting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def drain(self) -> None:
        """Asks load balancers to send no more and clients of streams to come back elsewhere. Requests are served on."""
        self._probes.draining = True
        await self._streams.shutdown()

    async def report(self) -> None:
        """Says now what it says every few seconds. Raises StoreUnavailable."""
        await self._reporting.write()


@asynccontextmanager
async def open_ingress(settings: IngressSettings) -> AsyncGenerator[Ingress]:
    """Connects to the stores and builds the application. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        foundation = await enter(open_foundation(service))
        connection, subscriber, database = foundation.connection, foundation.subscriber, foundation.database
        keys, scope, live, audit = foundation.keys, foundation.scope, foundation.live, foundation.audit
        await WorkingState(connection, keys).check_format()
        epochs = await enter(EpochWatch(connection, subscriber, keys).watching())
        turns = await enter(Turns(database, *scope))
        knowing = await enter(open_callers(settings.callers, foundation))
        callers, limiter = knowing.callers, knowing.limiter
        releases = Releases(database, audit, *scope)
        bundles = await registered_bundles(service, releases)
        bundles_following = await enter(follow_bundles(bundles, releases, connection, subscriber, keys).following())
        taking = await enter(open_taking(foundation, limiter, turns, epochs, bundles))
        composer, accepting, cancelling = taking.composer, taking.accepting, taking.cancelling
        conversations, feeds = taking.conversations, Feeds(connection, keys)
        streams = await enter(
            Streams(
                settings=StreamSettings(keepalive_s=settings.keepalive_s),
                logs=EventLogs(connection, keys),
                feeds=feeds,
                queue=taking.queue,
                subscriber=subscriber,
                epoch_watch=epochs,
                turns=turns,
                keys=keys,
                instruments=foundation.instruments,
            )
        )

        def enforce(config: GatewayConfig) -> None:
            streams.max_streams = config.limits.ingress.max_sse_connections_per_instance

        live.subscribe(enforce)
        erasures = Erasures(
            Erasing(database, *scope), cancelling, knowing.api_keys, knowing.revocations, LoginCache(connection, keys)
        )
        await enter(ProofWatch(streams, knowing.logins and knowing.logins.logins, knowing.stored_keys).watching())
        editing = Editing(live, foundation.configs, foundation.following, service)
        sources = Sources(connection, keys)
        monitoring = MonitoringRoutes(callers, live, limiter, turns, sources, connection, keys)
        wanting = Wanting(bundles, releases, bundles_following)
        secrets = await enter(open_secrets(settings.secrets))
        webhooks = WebhookRoutes(bundles, releases, wanting, secrets, knowing.addresses)
        admin = admin_routes(
            GatewayConfigRoutes(callers, editing, live, audit, monitoring.instances),
            BundleRoutes(callers, wanting, releases, bundles, audit, monitoring.instances),
            AuditRoutes(callers, audit),
            TurnRoutes(callers, turns, audit),
            monitoring,
        )
        probes = Probes(
            service="ingress",
            instance=service.instance_id,
            report=lambda: {**live.report("ingress"), **bundles.report()},
            checks=_checks(connection, database, epochs),
        )
        router = _router(
            ChatRoutes(
                callers,
                composer,
                accepting,
                cancelling,
                streams,
                turns,
                conversations,
                feeds,
                live,
                limiter,
            ),
            ConversationRoutes(callers, conversations, turns, composer, accepting, cancelling, feeds, live, limiter),
            ProfileRoutes(callers, conversations, live, limiter, bundles),
            OpenAIRoutes(callers, composer, accepting, cancelling, streams, bundles, live, limiter),
            ErasureRoutes(callers, erasures),
            ApiKeyRoutes(callers, knowing.stored_keys, knowing.api_keys, knowing.revocations),
            probes,
            DocumentRoutes(live=live, bundles=bundles),
            webhooks,
            admin,
        )
        instruments = foundation.instruments
        if knowing.authenticator.breaker is not None:
            watch_breaker(instruments, "identity_provider", knowing.authenticator.breaker)
        reporting = Reporting(sources, instruments, live, service, "ingress", about=bundles.report)
        await enter(reporting.reporting())
        await enter(internal_port(service, instruments))
        shapes = {openai_errors.UNDER: openai_errors.openai_error}
        edge = Edge(router, shapes, Traffic(instruments), foundation.tracing)
        yield Ingress(with_cors(edge, settings.callers.cors), probes, streams, reporting)


def _checks(connection: Connection, database: Database, epochs: EpochWatch) -> dict[str, Check]:
    async def valkey() -> None:
        await connection.call("PING")

    async def epoch() -> None:
        _ = epochs.current

    return {"valkey": valkey, "postgres": database.ping, "epoch": epoch}


def _router(
    chat: ChatRoutes,
    conversations: ConversationRoutes,
    profile: ProfileRoutes,
    openai: OpenAIRoutes,
    erasure: ErasureRoutes,
    api_keys: ApiKeyRoutes,
    probes: Probes,
    document: DocumentRoutes,
    webhooks: WebhookRoutes,
    admin: list[Route],
) -> Router:
    one = "/conversations/{conversation_id}"
    turn = one + "/turns/{turn_id}"
    return Router(
        [
            route("/sse/chat", POST=chat.send),
            route("/sse/stream", GET=chat.user_stream),
            route("/turns/{turn_id}/stream", GET=chat.turn_stream),
            route("/sse/cancel", POST=chat.cancel),
            route("/sse/conv_status.get", POST=chat.conversation_status),
            route("/profile", GET=profile.profile),
            route("/bundles", GET=profile.bundles),
            route("/conversations", GET=conversations.list),
            route(one, GET=conversations.fetch, PATCH=conversations.patch, DELETE=conversations.delete),
            route(one + "/restore", POST=conversations.restore),
            route(one + "/export", GET=conversations.export),
            route(turn + "/feedback", PUT=conversations.feedback),
            route(turn + "/retry", POST=conversations.retry),
            route("/v1/models", GET=openai.models),
            route("/v1/models/{model}", GET=openai.model),
            route("/v1/chat/completions", POST=openai.complete),
            route("/me", DELETE=erasure.erase_me),
            route("/me/erasures/{erasure_id}", GET=erasure.my_erasure),
            route("/admin/users", DELETE=erasure.erase_named),
            route("/admin/users/{user_id:path}", DELETE=erasure.erase_user),
            route("/admin/erasures/{erasure_id}", GET=erasure.erasure),
            route("/api-keys", GET=api_keys.list, POST=api_keys.create),
            route("/api-keys/{key_id}", DELETE=api_keys.revoke),
            route(
                "/admin/api-keys",
                GET=api_keys.list_all,
                POST=api_keys.create_for_service,
                DELETE=api_keys.revoke_all_of,
            ),
            route("/admin/api-keys/{key_id}", DELETE=api_keys.revoke_any),
            *admin,
            route("/webhooks/bundles/{bundle_id}", POST=webhooks.push),
            route("/health", GET=probes.health),
            route("/ready", GET=probes.ready),
            route("/openapi.json", GET=document.openapi),
        ],
        redirect_slashes=False,
        default=no_route,
    )

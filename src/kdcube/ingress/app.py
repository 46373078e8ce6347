"""The ingress application: its parts, opened in order, and its routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from kdcube.config.gateway import GatewayConfig
from kdcube.config.ingress import IngressSettings
from kdcube.gateway.adopting import adopt_config
from kdcube.gateway.applying import follow_config
from kdcube.gateway.bundles.adopting import registered_bundles
from kdcube.gateway.bundles.following import follow_bundles
from kdcube.gateway.bundles.wanting import Wanting
from kdcube.gateway.edge import Edge, allows_origin, with_cors
from kdcube.gateway.editing import Editing
from kdcube.gateway.identity.addresses import Addresses, Openings
from kdcube.gateway.identity.api_keys import ApiKeys
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.identity.logins import login_cookies
from kdcube.gateway.identity.opening import open_authenticator
from kdcube.gateway.identity.sessions import Sessions
from kdcube.gateway.limits import Limiter
from kdcube.gateway.probes import Check, Probes
from kdcube.gateway.reporting import Reporting, watch_breaker, watch_stores
from kdcube.gateway.routing import no_route, route
from kdcube.gateway.traffic import Traffic
from kdcube.ingress.accepting import Accepting
from kdcube.ingress.cancelling import Cancelling
from kdcube.ingress.erasure import Erasures
from kdcube.ingress.messages import Composer
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
from kdcube.ingress.streams.logins import LoginWatch
from kdcube.postgres.api_keys import StoredKeys
from kdcube.postgres.audit import Audit
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.erasing import Erasing
from kdcube.postgres.gateway_configs import GatewayConfigs
from kdcube.postgres.releases import Releases
from kdcube.postgres.turns import Turns
from kdcube.redis.admission import Admission
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import EpochWatch, WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.feed import Feeds
from kdcube.redis.keys import Keys
from kdcube.redis.logins import LoginCache
from kdcube.redis.queue import Queue
from kdcube.redis.rates import Rates
from kdcube.redis.revocations import Revocations
from kdcube.redis.server import check_server
from kdcube.redis.sources import Sources
from kdcube.redis.subscriber import open_subscriber
from kdcube.redis.workers import Workers
from kdcube.telemetry.instruments import Instruments


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
    name, scope = service.instance_id, (service.gateway.tenant, service.gateway.project)
    keys = Keys(*scope)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        connection = await enter(open_connection(service.redis_url, name=name))
        await check_server(connection)
        await WorkingState(connection, keys).check_format()
        subscriber = await enter(open_subscriber(service.redis_url, name=f"{name}-channels"))
        live = await adopt_config(service)
        pools = live.current.pools.ingress
        database = await enter(
            open_database(
                service.database_url, min_size=pools.pg_pool_min_size, max_size=pools.pg_pool_max_size, name=name
            )
        )
        epochs = await enter(EpochWatch(connection, subscriber, keys).watching())
        turns = await enter(Turns(database, *scope))
        conversations = Conversations(database, *scope)
        audit = Audit(database, *scope)
        configs = GatewayConfigs(database, audit, *scope)
        following = await enter(follow_config(live, configs, connection, subscriber, keys).following())
        releases = Releases(database, audit, *scope)
        bundles = await registered_bundles(service, releases)
        bundles_following = await enter(follow_bundles(bundles, releases, connection, subscriber, keys).following())
        limiter = Limiter(Rates(connection, keys), live)
        admission = Admission(connection, keys, limiter.admission)
        queue = Queue(connection, keys)
        feeds = Feeds(connection, keys)
        cancelling = Cancelling(turns, conversations, queue, epochs)
        accepting = await enter(Accepting(admission, queue, Workers(connection, keys), turns, epochs, cancelling))
        composer = Composer(live, bundles)
        streams = await enter(
            Streams(
                settings=StreamSettings(keepalive_s=settings.keepalive_s),
                logs=EventLogs(connection, keys),
                feeds=feeds,
                queue=queue,
                subscriber=subscriber,
                epoch_watch=epochs,
                turns=turns,
                keys=keys,
            )
        )

        def enforce(config: GatewayConfig) -> None:
            admission.limits = limiter.admission
            queue.running_per_user = admission.limits.running_per_user
            streams.max_streams = config.limits.ingress.max_sse_connections_per_instance

        live.subscribe(enforce)
        stored_keys = StoredKeys(database, audit, *scope)
        revocations = Revocations(connection, subscriber, keys)
        keys_known = await enter(ApiKeys(stored_keys, revocations).running())
        erasures = Erasures(
            Erasing(database, *scope), cancelling, keys_known, revocations, LoginCache(connection, keys)
        )
        logins = settings.logins and login_cookies(settings.logins, database, audit, connection, keys, scope)
        if logins is not None:
            await enter(LoginWatch(streams, logins.logins).watching())
        authenticator = await enter(open_authenticator(settings.auth, keys_known))
        callers = Callers(
            settings.auth,
            authenticator,
            Sessions(settings.session_secret.get_secret_value(), *scope),
            addresses=Addresses(settings.trusted_proxies),
            openings=Openings(connection, keys),
            limiter=limiter,
            allows_origin=allows_origin(settings.cors),
            logins=logins,
        )
        editing = Editing(live, configs, following, service)
        sources = Sources(connection, keys)
        monitoring = MonitoringRoutes(callers, live, limiter, turns, sources, connection, keys)
        wanting = Wanting(bundles, releases, bundles_following)
        addresses = Addresses(settings.trusted_proxies)
        webhooks = WebhookRoutes(bundles, releases, wanting, settings.webhook_secret, addresses)
        admin = admin_routes(
            GatewayConfigRoutes(callers, editing, live, audit, monitoring.instances),
            BundleRoutes(callers, wanting, releases, bundles, audit, monitoring.instances),
            AuditRoutes(callers, audit),
            TurnRoutes(callers, turns, audit),
            monitoring,
        )
        probes = Probes(
            service="ingress",
            instance=name,
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
            ApiKeyRoutes(callers, stored_keys, keys_known, revocations),
            probes,
            DocumentRoutes(live=live, bundles=bundles),
            webhooks,
            admin,
        )
        instruments = Instruments()
        instruments.gauge("streams_open", lambda: streams.count)
        instruments.gauge("streams_cap", lambda: streams.max_streams)
        watch_stores(instruments, database, connection)
        if authenticator.breaker is not None:
            watch_breaker(instruments, "identity_provider", authenticator.breaker)
        reporting = Reporting(sources, instruments, live, service, "ingress", about=bundles.report)
        await enter(reporting.reporting())
        edge = Edge(router, {openai_errors.UNDER: openai_errors.openai_error}, Traffic(instruments))
        yield Ingress(with_cors(edge, settings.cors), probes, streams, reporting)


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
            route("/admin/users/{user_id:path}", DELETE=erasure.erase_user),
            route("/admin/erasures/{erasure_id}", GET=erasure.erasure),
            route("/api-keys", GET=api_keys.list, POST=api_keys.create),
            route("/api-keys/{key_id}", DELETE=api_keys.revoke),
            route("/admin/api-keys", GET=api_keys.list_all, POST=api_keys.create_for_service),
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

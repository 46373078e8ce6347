"""The whole system on one machine: embedded stores, ingress processes, proc."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import gethostname

from kdcube.config.bundles import BundleEntry
from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load
from kdcube.config.metrics import MetricsSettings
from kdcube.config.proc import ProcSettings
from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.deploy.routes import Service
from kdcube.gateway.adopting import config_to_run
from kdcube.local.administrator import keep_administrator
from kdcube.local.bundles import assemble
from kdcube.local.docs import DOCS_ID, docs_entry
from kdcube.local.home import Home
from kdcube.local.ports import is_free
from kdcube.local.postgres import STOP_SIGNAL, Postgres
from kdcube.local.probe import http_missing
from kdcube.local.process import Program
from kdcube.local.proxy import TRUSTED, Proxy, proxy_ports
from kdcube.local.service import ServiceSpec
from kdcube.local.settings import LocalSettings, ProxyTls
from kdcube.local.supervisor import Supervisor
from kdcube.local.valkey import answers, valkey_program
from kdcube.postgres.migrate import migrate
from kdcube.proc.bundles.environments.environments import open_environments
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.permissions import reading_rule
from kdcube.redis.server import check_server

HOST = "127.0.0.1"
MAX_PROCESSES = 10
_PROC_OFFSET = 10
_PROXYLOGIN_OFFSET = 20
_INTERNAL_OFFSET = 30
"""From the port of a service to its internal one."""
_METRICS_OFFSET = 80
_METRICS_USER = "metrics"
_VALKEY_OFFSET = 90
_POSTGRES_OFFSET = 91
_READY_LIMIT_S = 60.0
_KILL_MARGIN_S = 5.0
_METRICS_STOP_S = 5.0


class PortInUse(KDCubeError):
    """A port that the system needs is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``kdcube up`` was asked for. A URL of a store means: the user's own server, not an embedded one."""

    ingress: int = 2
    proc: int = 1
    slots: int | None = None
    bundles: Sequence[Path] = ()
    docs: Path | None = None
    """Whose documents the docs bundle answers about, absolute; None: those of KDCube."""
    watch: bool = False
    """Bundles are reloaded when their files change."""
    auth: Path | None = None
    redis_url: str | None = None
    database_url: str | None = None
    proxy: bool = False
    """A reverse proxy stands in front of ingress and proc."""
    metrics: bool = True
    """The metrics service runs beside them."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Brings the system up in ``home``, which is locked."""

    home: Home
    settings: LocalSettings
    options: Options

    @property
    def url(self) -> str:
        """Where clients go: the first ingress process, or the proxy without TLS (others may not be trusted)."""
        if self.options.proxy and self.settings.proxy_tls is ProxyTls.NONE:
            return self._proxy().url
        return f"http://{HOST}:{self.settings.first_port}"

    @property
    def docs(self) -> BundleEntry:
        """The docs bundle, as it is served."""
        return self.settings.bundles.bundles.get(DOCS_ID) or docs_entry(self.options.docs, self.home)

    async def bring_up(self, supervisor: Supervisor) -> None:
        """Start everything and wait until it is ready. Raises KDCubeError, whose message is for the user."""
        self._check_ports()
        proxy = self._proxy() if self.options.proxy else None  # told at once what it lacks
        folder = self.home.path / "environments"
        with open_environments(folder, self.settings.environments, quiet=True) as environments:
            registry = await assemble(self.settings.bundles, self.options.bundles, self.docs, environments)
        redis_url = self._start_valkey(supervisor)
        database_url = await self._start_postgres(supervisor)
        await supervisor.ready(_READY_LIMIT_S)
        await _check_valkey(redis_url)
        await migrate(database_url)
        await keep_administrator(self.home, database_url, self.settings.gateway)
        shared = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "AGENTIC_BUNDLES_JSON": registry.model_dump_json(exclude_none=True),
            "KDCUBE_HOME": str(self.home.path),
            "KDCUBE_HOST": HOST,
            "PYTHONUNBUFFERED": "1",
        }
        ingress = [self._ingress(number, shared) for number in range(self.options.ingress)]
        proc = [self._proc(number, shared) for number in range(self.options.proc)]
        adopting = load(
            IngressSettings, ingress[0].program.env
        )  # told here at once instead of by each process again and again
        load(ProcSettings, proc[0].program.env)
        if self._signs_in:
            load(ProxyLoginSettings, self._proxylogin(shared).program.env)
        stores = supervisor.services
        if self.options.metrics:
            metrics = self._metrics(redis_url)
            load(MetricsSettings, metrics.program.env)
            supervisor.start(metrics, needs=[store for store in stores if store.spec.name == "valkey"])
        if proxy is not None:
            # Before ingress, so that it ends behind it: what is under way when ingress drains still gets its answer.
            gateway = await config_to_run(adopting.service)
            supervisor.start(await asyncio.to_thread(proxy.prepare, gateway))
        supervisor.start(*ingress, needs=stores)
        if self._signs_in:
            supervisor.start(self._proxylogin(shared), needs=stores)
        supervisor.start(*proc, needs=stores)
        await supervisor.ready(_READY_LIMIT_S)

    def _check_ports(self) -> None:
        first, options = self.settings.first_port, self.options
        wanted = {first + number: f"ingress-{number}" for number in range(options.ingress)}
        wanted |= {first + _PROC_OFFSET + number: f"proc-{number}" for number in range(options.proc)}
        wanted |= {first + _PROXYLOGIN_OFFSET: "proxylogin"} if self._signs_in else {}
        wanted |= {port + _INTERNAL_OFFSET: f"the internal port of {what}" for port, what in wanted.items()}
        wanted |= proxy_ports(self.settings) if options.proxy else {}
        wanted |= {first + _METRICS_OFFSET: "metrics"} if options.metrics else {}
        wanted |= {} if options.redis_url else {first + _VALKEY_OFFSET: "Valkey"}
        wanted |= {} if options.database_url else {first + _POSTGRES_OFFSET: "PostgreSQL"}
        for port, what in wanted.items():
            if not is_free(port, HOST):
                raise PortInUse(
                    f"port {port}, for {what}, is in use by another program: "
                    f"choose another first port, such as KDCUBE_PORT={_other_first_port(first)}"
                )

    def _proxy(self) -> Proxy:
        first = self.settings.first_port
        behind = {
            Service.INGRESS: tuple(first + number for number in range(self.options.ingress)),
            Service.PROC: tuple(first + _PROC_OFFSET + number for number in range(self.options.proc)),
        }
        if self._signs_in:
            behind[Service.PROXYLOGIN] = (first + _PROXYLOGIN_OFFSET,)
        return Proxy(self.home, self.settings, behind)

    @property
    def _signs_in(self) -> bool:
        return self.settings.signs_in and self.options.auth is None

    def _start_valkey(self, supervisor: Supervisor) -> str:
        if self.options.redis_url is not None:
            return self.options.redis_url
        port = self.settings.first_port + _VALKEY_OFFSET
        url = f"redis://{HOST}:{port}/0"
        gateway = self.settings.gateway
        reader = (_METRICS_USER, self._metrics_password, reading_rule(Keys(gateway.tenant, gateway.project)))
        program = valkey_program(self.home.valkey, port, users=[reader])
        supervisor.start(ServiceSpec("valkey", "valkey", url, program, partial(_valkey_missing, port), grace_s=10))
        return url

    async def _start_postgres(self, supervisor: Supervisor) -> str:
        if self.options.database_url is not None:
            return self.options.database_url
        server = Postgres(self.home.postgres, self.settings.first_port + _POSTGRES_OFFSET)
        await asyncio.to_thread(server.prepare)

        async def missing(pid: int) -> str | None:
            return None if server.answers(pid) else "it does not accept connections"

        spec = ServiceSpec("postgres", "postgres", server.address, server.program(), missing, STOP_SIGNAL)
        supervisor.start(spec)
        return server.dsn

    def _ingress(self, number: int, shared: Mapping[str, str]) -> ServiceSpec:
        stop_s = self.settings.ingress_stop_s
        port = self.settings.first_port + number
        variables = {
            **self._secrets(),
            **self.settings.ingress_variables,
            **shared,
            **self._knowing_callers(),
            "INGRESS_CONTAINER_STOP_TIMEOUT_SEC": str(stop_s),
            "CHAT_APP_PORT": str(port),
            "KDCUBE_INTERNAL_PORT": str(port + _INTERNAL_OFFSET),
        }
        return _service("ingress", number, port, variables, stop_s)

    def _secrets(self) -> dict[str, str]:
        return {"KDCUBE_SECRETS_DIR": str(self.home.secrets)} if self.home.secrets.is_dir() else {}

    def _knowing_callers(self) -> dict[str, str]:
        """What makes ingress and proc know the same people."""
        auth = self.options.auth
        return {
            **({} if auth is None else {"AUTH_PROVIDER": "simple", "IDP_DB_PATH": str(auth)}),
            **({"KDCUBE_TRUSTED_PROXIES": TRUSTED} if self.options.proxy else {}),
            **self._signing_in(),
            "KDCUBE_SESSION_SECRET": self.home.secret("session-secret"),
        }

    def _signing_in(self) -> dict[str, str]:
        """What all services must know of it. Without a proxy users sign in at one port and come back to another."""
        if not self._signs_in:
            return {}
        given = self.settings.ingress_variables
        own = f"http://{HOST}:{self.settings.first_port + _PROXYLOGIN_OFFSET}"
        site = self._proxy().url if self.options.proxy else own
        return {
            "PROXYLOGIN_ENCRYPTION_KEYS": given.get("PROXYLOGIN_ENCRYPTION_KEYS") or self.home.secret("login-key"),
            "PROXYLOGIN_PUBLIC_URL": given.get("PROXYLOGIN_PUBLIC_URL") or site,
        }

    def _proxylogin(self, shared: Mapping[str, str]) -> ServiceSpec:
        stop_s = self.settings.proxylogin_stop_s
        port = self.settings.first_port + _PROXYLOGIN_OFFSET
        elsewhere = not (self.options.proxy or "PROXYLOGIN_PUBLIC_URL" in self.settings.proxylogin_variables)
        variables = {
            **({"PROXYLOGIN_RETURN_URL": self.url} if elsewhere else {}),
            **self.settings.proxylogin_variables,
            **shared,
            **({"KDCUBE_TRUSTED_PROXIES": TRUSTED} if self.options.proxy else {}),
            **self._signing_in(),
            "PROXYLOGIN_STOP_TIMEOUT_SEC": str(stop_s),
            "PROXYLOGIN_PORT": str(port),
            "KDCUBE_INTERNAL_PORT": str(port + _INTERNAL_OFFSET),
        }
        return _service("proxylogin", 0, port, variables, stop_s)

    def _proc(self, number: int, shared: Mapping[str, str]) -> ServiceSpec:
        stop_s = self.settings.proc_stop_s
        port = self.settings.first_port + _PROC_OFFSET + number
        variables = {
            **self._secrets(),
            **self.settings.proc_variables,
            **shared,
            **self._knowing_callers(),
            **({} if self.options.slots is None else {"KDCUBE_SLOTS": str(self.options.slots)}),
            "PROC_CONTAINER_STOP_TIMEOUT_SEC": str(stop_s),
            "CHAT_PROCESSOR_PORT": str(port),
            "KDCUBE_INTERNAL_PORT": str(port + _INTERNAL_OFFSET),
            **({"KDCUBE_WATCH": "1"} if self.options.watch else {}),
        }
        return _service("proc", number, port, variables, stop_s)

    def _metrics(self, redis_url: str) -> ServiceSpec:
        """It needs no store but Valkey, and signs in to ours as a user who may only read figures."""
        port = self.settings.first_port + _METRICS_OFFSET
        if self.options.redis_url is None:
            redis_url = redis_url.replace("//", f"//{_METRICS_USER}:{self._metrics_password}@", 1)
        variables = {
            **self.settings.metrics_variables,
            "REDIS_URL": redis_url,
            "KDCUBE_HOST": HOST,
            "PYTHONUNBUFFERED": "1",
            "METRICS_RUN_ONCE": "0",
            "METRICS_PORT": str(port),
        }
        return _service("metrics", 0, port, variables, _METRICS_STOP_S)

    @property
    def _metrics_password(self) -> str:
        return self.home.secret("metrics-password")


def _service(name: str, number: int, port: int, variables: Mapping[str, str], stop_s: float) -> ServiceSpec:
    instance, url = f"{name}-{number}", f"http://{HOST}:{port}"
    env = {**variables, "GATEWAY_COMPONENT": name, "INSTANCE_ID": f"{gethostname()}-{instance}"}
    program = Program((sys.executable, "-P", "-m", f"kdcube.{name}"), env)

    async def missing(_: int) -> str | None:
        return await http_missing(url)

    return ServiceSpec(name, instance, url, program, missing, grace_s=stop_s + _KILL_MARGIN_S)


async def _valkey_missing(port: int, _: int) -> str | None:
    return None if await asyncio.to_thread(answers, port) else "it does not answer"


async def _check_valkey(url: str) -> None:
    async with open_connection(url, name="kdcube-up") as connection:
        await check_server(connection)


def _other_first_port(first: int) -> int:
    return first + 1000 if first < 60_000 else 8010

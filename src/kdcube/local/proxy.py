"""The reverse proxy in front of the ingress processes of this machine: nginx, as somebody else has installed it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from kdcube.config.gateway import GatewayConfig
from kdcube.deploy.certificates import expiry_of, self_signed
from kdcube.deploy.proxy import AddressLimits, Fixed, ProxyFacts, Timeouts, Tls, body_limits
from kdcube.deploy.render.proxy import render_proxy
from kdcube.deploy.routes import Service
from kdcube.local.home import Home
from kdcube.local.probe import http_missing
from kdcube.local.process import Account, Program, run, unprivileged_account
from kdcube.local.service import ServiceSpec
from kdcube.local.settings import LocalSettings, ProxyTls
from kdcube.protocol.errors import InvalidInput, KDCubeError

HOST: Final = "127.0.0.1"
TRUSTED: Final = "127.0.0.1/32"
"""Whose word of a client's address the services take when the proxy runs."""
PROXY_OFFSET: Final = 70
REDIRECT_OFFSET: Final = 71
"""Where plain HTTP is sent on to TLS, when there is TLS."""
STOP_SIGNAL: Final = signal.SIGQUIT  # lets requests under way end
_GRACE_S = 10.0
_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = timedelta(days=30)
_LIMITS = AddressLimits(connections=10_000, requests_per_s=1_000, burst=5_000)
"""Everybody on this machine comes from one address."""


class NginxMissing(KDCubeError):
    """nginx is not installed: apt-get install nginx-light, or leave out --proxy."""


class NginxRefused(KDCubeError):
    """nginx does not take the configuration that was made for it."""


class Proxy:
    """nginx on KDCUBE_PORT + 70. ``services`` are the ports of the processes behind it."""

    def __init__(self, home: Home, settings: LocalSettings, services: Mapping[Service, tuple[int, ...]]) -> None:
        self._binary = find_nginx(settings.ingress_variables.get("PATH", os.defpath))
        self._folder = home.run / "proxy"
        self._log = home.logs / "proxy.log"
        self._kept = home.path / "proxy"
        self._settings = settings
        self._services = services

    @property
    def url(self) -> str:
        """Where clients go."""
        scheme = "http" if self._settings.proxy_tls is ProxyTls.NONE else "https"
        return f"{scheme}://{HOST}:{self._port}"

    def prepare(self, gateway: GatewayConfig) -> ServiceSpec:
        """Write what it needs, with the limits of ``gateway``, and have nginx check it.

        Raises InvalidInput, NginxRefused.
        """
        account = unprivileged_account(self._folder)
        for folder in (self._folder, self._kept):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _give(folder, account)
        self._log.touch(0o600)
        _give(self._log, account)  # nginx opens it by itself
        configuration = self._folder / "nginx.conf"
        configuration.write_text(render_proxy(self._facts(account, gateway)))
        _give(configuration, account)
        argv = (self._binary, "-e", "stderr", "-p", str(self._folder), "-c", str(configuration))
        try:
            run(Program((*argv, "-t", "-q"), account=account))
        except subprocess.CalledProcessError as error:
            raise NginxRefused(f"nginx does not start: {error.stdout.strip()}") from error
        program = Program(argv, death_signal=signal.SIGTERM, account=account)

        async def missing(_: int) -> str | None:
            return await http_missing(self.url)

        return ServiceSpec("proxy", "proxy", self.url, program, missing, STOP_SIGNAL, _GRACE_S)

    @property
    def _port(self) -> int:
        return self._settings.first_port + PROXY_OFFSET

    def _facts(self, account: Account | None, gateway: GatewayConfig) -> ProxyFacts:
        address = ip_address(HOST)
        tls = self._tls(account)
        return ProxyFacts(
            folder=self._folder,
            services={
                service: Fixed(tuple((address, port) for port in ports)) for service, ports in self._services.items()
            },
            body_bytes=body_limits(gateway),
            listen=(address,),
            port=self._port if tls is None else self._settings.first_port + REDIRECT_OFFSET,
            tls=tls,
            timeouts=Timeouts(),
            limits=_LIMITS,
            max_open_files=min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            access_log=self._log,
            version=version("kdcube"),
            config_checksum=gateway.checksum,
        )

    def _tls(self, account: Account | None) -> Tls | None:
        settings = self._settings
        match settings.proxy_tls:
            case ProxyTls.NONE:
                return None
            case ProxyTls.SELF_SIGNED:
                certificate, key = self._kept / "certificate.pem", self._kept / "key.pem"
                if not _serves_on(certificate, key):
                    made = self_signed(_NAMES, now=datetime.now(UTC))
                    _write_private(key, made.key, account)
                    _write_private(certificate, made.certificate, account)
                return Tls(certificate, key, self._port, lasting=False)
            case ProxyTls.GIVEN:
                for name, path in (
                    ("KDCUBE_PROXY_CERTIFICATE", settings.proxy_certificate),
                    ("KDCUBE_PROXY_KEY", settings.proxy_key),
                ):
                    if path is None or not path.is_file():
                        raise InvalidInput(name, f"{name} is {path}, which is no file; KDCUBE_PROXY_TLS=given needs it")
                assert settings.proxy_certificate is not None
                assert settings.proxy_key is not None
                return Tls(settings.proxy_certificate.absolute(), settings.proxy_key.absolute(), self._port)


def proxy_ports(settings: LocalSettings) -> dict[int, str]:
    """What it listens on, and what for."""
    ports = {settings.first_port + PROXY_OFFSET: "the proxy"}
    if settings.proxy_tls is not ProxyTls.NONE:
        ports[settings.first_port + REDIRECT_OFFSET] = "the proxy's redirect"
    return ports


def find_nginx(search: str, beside: str = "/usr/sbin:/usr/local/sbin") -> str:
    """Its path. Raises NginxMissing."""
    found = shutil.which("nginx", path=f"{search}:{beside}")
    if found is None:
        raise NginxMissing
    return found


def _serves_on(certificate: Path, key: Path) -> bool:
    """Whether a certificate of an earlier run is there, and good for a while."""
    if not key.is_file() or not certificate.is_file():
        return False
    return expiry_of(certificate.read_bytes()) > datetime.now(UTC) + _RENEW_BEFORE


def _write_private(path: Path, content: bytes, account: Account | None) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    _give(path, account)


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)

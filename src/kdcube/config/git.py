"""Where bundles come from by git, and what proc needs to get them: addresses, refs, keys, a token, limits."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from kdcube.config.environment import Environment
from kdcube.protocol.errors import ConfigurationError

_NETWORK = (
    *("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""What of proc's environment the transports of git need to reach a server from where it stands."""

GIT_VARIABLES = (
    *("GIT_SSH_KEY_PATH", "GIT_SSH_KNOWN_HOSTS", "GIT_HTTP_TOKEN", "GIT_HTTP_USER", "KDCUBE_GIT_ALLOW_FILE"),
    *("KDCUBE_GIT_TIMEOUT_SEC", "KDCUBE_GIT_MAX_BYTES", *_NETWORK),
)
"""All that ``GitSettings`` reads."""

_SCP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[A-Za-z0-9._~/][^:]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN = re.compile(r"[!-~]+")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@#=-]{0,254}")


class GitTransport(StrEnum):
    HTTPS = "https"
    HTTP = "http"
    """To this machine only: whoever stands between could put in other code, and read the token."""
    SSH = "ssh"
    FILE = "file"
    """Where KDCUBE_GIT_ALLOW_FILE says so."""


@dataclass(frozen=True, slots=True)
class GitAddress:
    """A repository. It holds no credentials, so it may be shown."""

    url: str
    transport: GitTransport
    origin: str
    """``scheme://host[:port]`` of http and https, to which the token belongs; empty for others."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, whose message does not repeat ``url``: it may hold what it should not."""
        if not _PLAIN.fullmatch(url) or url.startswith("-"):
            raise ValueError("git_url must be a URL without blanks")
        if "://" not in url:
            found = _SCP.fullmatch(url)
            if found is None:
                raise ValueError("git_url must be https://host/path, ssh://user@host/path or user@host:path")
            return cls(url, GitTransport.SSH, "")
        parts = urlsplit(url)
        try:
            transport, port = GitTransport(parts.scheme), parts.port
        except ValueError:
            raise ValueError("git_url must be an https or ssh URL, with a valid port if it names one") from None
        if parts.query or parts.fragment or not parts.path.strip("/"):
            raise ValueError("git_url must name a repository by its path, without ? and #")
        if transport is GitTransport.FILE:
            if parts.netloc:
                raise ValueError("git_url of a file is file:///absolute/path")
            return cls(url, transport, "")
        host = parts.netloc.rpartition("@")[2]
        host = host.rpartition(":")[0] if port is not None else host.removesuffix(":")
        if not _HOST.fullmatch(host):
            raise ValueError("git_url names no valid host")
        user = parts.netloc.rpartition("@")[0]
        if transport is GitTransport.SSH:
            if user and not _USER.fullmatch(user):
                raise ValueError("git_url of ssh may name a user, and no password: give GIT_SSH_KEY_PATH")
            return cls(url, transport, "")
        if user or "@" in parts.netloc:
            raise ValueError("git_url must not hold credentials: give GIT_HTTP_TOKEN")
        if transport is GitTransport.HTTP and not _is_loopback(parts.hostname or ""):
            raise ValueError("git_url of http is for this machine only: give https or ssh")
        return cls(url, transport, f"{parts.scheme}://{parts.netloc}")


def check_git_ref(ref: str) -> None:
    """A branch, a tag, a full or short commit, or refs/heads/… and refs/tags/…. Raises ValueError."""
    bad = ".." in ref or "//" in ref or "@{" in ref or ref.endswith((".", "/", ".lock")) or "/." in ref
    if bad or not _REF.fullmatch(ref):
        raise ValueError("git_ref must be the name of a branch or tag, or a commit")


def check_git_subdir(subdir: str) -> None:
    """A folder within the repository. Raises ValueError."""
    path = PurePosixPath(subdir)
    if path.is_absolute() or ".." in path.parts or ".git" in path.parts or "\0" in subdir or not subdir.strip():
        raise ValueError("git_subdir must be a folder within the repository, such as bundles/support")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSettings:
    """How proc gets bundles by git. ``read`` checks what the registry's addresses need."""

    ssh_key: Path | None = None
    """GIT_SSH_KEY_PATH: a private key without a passphrase."""
    ssh_known_hosts: Path | None = None
    """GIT_SSH_KNOWN_HOSTS: the keys of servers; one that is not in it is not talked to."""
    http_token: SecretStr | None = None
    """GIT_HTTP_TOKEN, sent to the servers that the registry names and only when they ask."""
    http_user: str = "x-access-token"
    """GIT_HTTP_USER: the name that goes with the token; most servers take any."""
    allow_file: bool = False
    """KDCUBE_GIT_ALLOW_FILE: file:// may be used."""
    timeout_s: float = 120.0
    """KDCUBE_GIT_TIMEOUT_SEC: for one fetch, and for waiting until another process has done its own."""
    max_bytes: int = 1 << 30
    """KDCUBE_GIT_MAX_BYTES: of one repository on this disk, and of one version's files."""
    max_files: int = 50_000
    """Of one version."""
    network: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Proxies and authorities of this place, for git alone."""

    @classmethod
    def read(cls, environment: Environment, addresses: Iterable[GitAddress], own_keys: Container[str] = ()) -> Self:
        """``own_keys``: URLs whose bundles name the secret that is their key. Raises ConfigurationError."""
        token = environment.secret("GIT_HTTP_TOKEN")
        if token is not None and not _PLAIN.fullmatch(token.get_secret_value()):
            raise ConfigurationError("GIT_HTTP_TOKEN", "holds a blank, a line end or a letter that is not ASCII")
        user = environment.text("GIT_HTTP_USER", "x-access-token")
        if not _USER.fullmatch(user):
            raise ConfigurationError("GIT_HTTP_USER", f"is {user!r}; give letters, digits, '.', '_' and '-'")
        settings = cls(
            ssh_key=_file("GIT_SSH_KEY_PATH", environment.path("GIT_SSH_KEY_PATH")),
            ssh_known_hosts=_file("GIT_SSH_KNOWN_HOSTS", environment.path("GIT_SSH_KNOWN_HOSTS")),
            http_token=token,
            http_user=user,
            allow_file=environment.flag("KDCUBE_GIT_ALLOW_FILE", False),
            timeout_s=environment.seconds("KDCUBE_GIT_TIMEOUT_SEC", 120.0, minimum=1, maximum=3_600),
            max_bytes=environment.integer("KDCUBE_GIT_MAX_BYTES", 1 << 30, minimum=1 << 20, maximum=1 << 40),
            network=read_network(environment),
        )
        for address in addresses:
            settings.check(address, own_key=address.url in own_keys)
        return settings

    def check(self, address: GitAddress, *, own_key: bool = False) -> None:
        """Raises ConfigurationError when ``address`` cannot be used with these settings. ``own_key``: its bundle
        has one.
        """
        if address.transport is GitTransport.FILE and not self.allow_file:
            raise ConfigurationError("KDCUBE_GIT_ALLOW_FILE", f"is not 1, so {address.url} is not fetched")
        if address.transport is GitTransport.SSH:
            for name, path, what in (
                ("GIT_SSH_KEY_PATH", self.ssh_key, "the file of a private key"),
                ("GIT_SSH_KNOWN_HOSTS", self.ssh_known_hosts, "a file with the server's key, as ssh-keyscan prints it"),
            ):
                if path is None and not (own_key and name == "GIT_SSH_KEY_PATH"):
                    raise ConfigurationError(name, f"is not set; {address.url} needs {what}")


def read_network(environment: Environment) -> dict[str, str]:
    """Proxies and authorities of this place."""
    given = {
        "https_proxy": environment.optional("https_proxy"),
        "HTTPS_PROXY": environment.optional("HTTPS_PROXY"),
        "http_proxy": environment.optional("http_proxy"),
        "all_proxy": environment.optional("all_proxy"),
        "ALL_PROXY": environment.optional("ALL_PROXY"),
        "no_proxy": environment.optional("no_proxy"),
        "NO_PROXY": environment.optional("NO_PROXY"),
        "GIT_SSL_CAINFO": environment.optional("GIT_SSL_CAINFO"),
        "SSL_CERT_FILE": environment.optional("SSL_CERT_FILE"),
        "SSL_CERT_DIR": environment.optional("SSL_CERT_DIR"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _file(name: str, path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise ConfigurationError(name, f"is {path}, which is no file")
    return None if path is None else path.absolute()

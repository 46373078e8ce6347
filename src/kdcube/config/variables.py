"""What of an environment means nothing to a service, and why, where that is known. Names only, never values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from kdcube.config.environments import ENVIRONMENT_VARIABLES
from kdcube.config.exporting import EXPORT_VARIABLES
from kdcube.config.git import GIT_VARIABLES
from kdcube.config.secrets import AWS_VARIABLES, SECRET_VARIABLES
from kdcube.config.tracing import TRACING_VARIABLES

UNUSED_MAX = 40
"""Names that are listed; the others are counted."""

_BOTH = ("ingress", "proc")
_ALL = ("ingress", "proc", "proxylogin")
_EVERY = (*_ALL, "metrics")
_UP = ("kdcube up",)

READERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("KDCUBE_HOST", "INSTANCE_ID", "KDCUBE_REVISION", "LOG_LEVEL", "KDCUBE_FAILPOINTS"), _EVERY),
        "KDCUBE_INTERNAL_PORT": _ALL,
        **dict.fromkeys(("REDIS_URL", "GATEWAY_CONFIG_JSON", "GATEWAY_COMPONENT"), _EVERY),
        **dict.fromkeys(("DATABASE_URL", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DATABASE", "POSTGRES_USER"), _ALL),
        **dict.fromkeys(("POSTGRES_PASSWORD", "POSTGRES_SSL", "GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP"), _ALL),
        **dict.fromkeys(("KDCUBE_HOME", "KDCUBE_STORAGE_PATH", "AGENTIC_BUNDLES_JSON", "AGENTIC_BUNDLES_ROOT"), _ALL),
        **dict.fromkeys(("BUNDLES_FORCE_ENV_ON_STARTUP", *TRACING_VARIABLES), _ALL),
        **dict.fromkeys(("AUTH_PROVIDER", "IDP_DB_PATH", "KDCUBE_ANONYMOUS"), _ALL),
        **dict.fromkeys(("ID_TOKEN_HEADER_NAME", "AUTH_TOKEN_COOKIE_NAME", "ID_TOKEN_COOKIE_NAME"), _ALL),
        **dict.fromkeys(("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_AUDIENCE", "OIDC_ROLES_CLAIM"), _ALL),
        **dict.fromkeys(("OIDC_ALGORITHMS", "OIDC_CLOCK_SKEW_SEC", "COGNITO_REGION"), _ALL),
        **dict.fromkeys(("COGNITO_USER_POOL_ID", "COGNITO_APP_CLIENT_ID", "COGNITO_ISSUER"), _ALL),
        **dict.fromkeys(("COGNITO_SERVICE_CLIENT_ID", "KDCUBE_TRUSTED_PROXIES"), _ALL),
        **dict.fromkeys(("PROXYLOGIN_ENCRYPTION_KEYS", "PROXYLOGIN_PUBLIC_URL"), _ALL),
        **dict.fromkeys(("PROXYLOGIN_PORT", "PROXYLOGIN_RETURN_URL", "PROXYLOGIN_IDLE_SEC"), ("proxylogin",)),
        **dict.fromkeys(("PROXYLOGIN_LIFETIME_SEC", "PROXYLOGIN_GRACE_SEC", "OIDC_SCOPES"), ("proxylogin",)),
        **dict.fromkeys(("PROXYLOGIN_STOP_TIMEOUT_SEC", "OIDC_CLIENT_SECRET"), ("proxylogin",)),
        **dict.fromkeys(("CHAT_APP_PORT", "KDCUBE_KEEPALIVE_SEC", "INGRESS_CONTAINER_STOP_TIMEOUT_SEC"), ("ingress",)),
        **dict.fromkeys(("CORS_CONFIG", "KDCUBE_SESSION_SECRET"), _BOTH),
        **dict.fromkeys(("CHAT_PROCESSOR_PORT", "KDCUBE_SLOTS", "CHAT_TASK_TIMEOUT_SEC"), ("proc",)),
        **dict.fromkeys(("HEARTBEAT_INTERVAL", "PROC_CONTAINER_STOP_TIMEOUT_SEC", "ECS_AGENT_URI"), ("proc",)),
        **dict.fromkeys(("KDCUBE_WATCH", "KDCUBE_DEBUG_BUNDLES", *GIT_VARIABLES, *ENVIRONMENT_VARIABLES), ("proc",)),
        **dict.fromkeys((*SECRET_VARIABLES, *AWS_VARIABLES), _BOTH),
        **dict.fromkeys(("PROXYLOGIN_ENCRYPTION_KEYS", "PROXYLOGIN_PUBLIC_URL"), _ALL),
        **dict.fromkeys(("OIDC_CLIENT_SECRET", "OIDC_SCOPES", "PROXYLOGIN_RETURN_URL"), ("proxylogin",)),
        **dict.fromkeys(("PROXYLOGIN_LIFETIME_SEC", "PROXYLOGIN_IDLE_SEC", "PROXYLOGIN_GRACE_SEC"), ("proxylogin",)),
        **dict.fromkeys(("PROXYLOGIN_PORT", "PROXYLOGIN_STOP_TIMEOUT_SEC"), ("proxylogin",)),
        **dict.fromkeys(("METRICS_PORT", "METRICS_MODE", "METRICS_RUN_ONCE", *EXPORT_VARIABLES), ("metrics",)),
        **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"), (*_BOTH, "metrics")),
        **dict.fromkeys(AWS_VARIABLES, (*_BOTH, "metrics")),
        **dict.fromkeys(("KDCUBE_PORT", "KDCUBE_PROXY_TLS", "KDCUBE_PROXY_CERTIFICATE", "KDCUBE_PROXY_KEY"), _UP),
        **dict.fromkeys(("KDCUBE_TOKEN", "XDG_STATE_HOME", "NO_COLOR", "TERM"), ("kdcube chat",)),
    }
)
"""Who reads a variable. Each has its row in docs/configuration.md."""

_HERE = "GATEWAY_CONFIG_JSON says it"
_REDIS = "REDIS_URL says where Valkey is, with the password"
_FETCHED = "bundles without a path are fetched by git_url, and old versions removed by themselves"
_SCANNING = "uploads are not scanned for viruses"
_CODE = "there is no execution of code yet"
_TOLD_IN_VALKEY = "services tell their figures in Valkey; the metrics service asks nobody else"
_GRANTED = 'bundles inherit nothing: grant it by name, with "secrets" in AGENTIC_BUNDLES_JSON'
_MOUNTED = "a path of the host, for compose alone"

WITHOUT_MEANING: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("TENANT_ID", "PROJECT_ID", "DEFAULT_TENANT", "DEFAULT_PROJECT_NAME", "GATEWAY_PROFILE"), _HERE
        ),
        **dict.fromkeys(("GATEWAY_PRESET", "AVG_PROCESSING_TIME_SECONDS", "GATEWAY_YAML_PATH"), _HERE),
        "PLATFORM_DESCRIPTORS_DIR": _HERE,
        **dict.fromkeys(("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB"), _REDIS),
        **dict.fromkeys(("EXEC_WORKSPACE_ROOT", "KDCUBE_EXEC_ALLOW_WEAK"), _CODE),
        **dict.fromkeys(("AWS_SDK_LOAD_CONFIG",), "it is not needed"),
        **dict.fromkeys(("LOG_DIR", "LOG_FILE", "LOG_MAX_MB", "LOG_BACKUP_COUNT"), "logs go to standard error"),
        **dict.fromkeys(("KDCUBE_LLM_PROVIDER", "KDCUBE_LLM_BASE_URL", "KDCUBE_LLM_MODEL"), _GRANTED),
        "KDCUBE_LLM_API_KEY": _GRANTED,
        **dict.fromkeys(("METRICS_INGRESS_BASE_URL", "METRICS_PROC_BASE_URL", "METRICS_HEADERS_JSON"), _TOLD_IN_VALKEY),
        **dict.fromkeys(("METRICS_AUTH_HEADER_NAME", "METRICS_AUTH_HEADER_VALUE"), _TOLD_IN_VALKEY),
        **dict.fromkeys(("METRICS_REQUEST_TIMEOUT_SEC", "METRICS_ENABLE_PG_POOL"), _TOLD_IN_VALKEY),
        "UV_INDEX_URL": "UV_DEFAULT_INDEX says it",
        "UV_EXTRA_INDEX_URL": "UV_INDEX says it",
        "CHAT_WEB_APP_CONFIG_FILE_PATH": "it is for the browser application",
        "OPEX_AGG_CRON": "there is no accounting",
    }
)
"""Of the older services, and why it does nothing here."""

_WITHOUT_MEANING_BY_PREFIX: Mapping[str, str] = MappingProxyType(
    {
        "APP_AV_": _SCANNING,
        "CLAMAV_": _SCANNING,
        "BUNDLE_GIT_": _FETCHED,
        "BUNDLE_CLEANUP_": _FETCHED,
        "BUNDLE_REF_": _FETCHED,
        "PY_CODE_EXEC_": _CODE,
        "HOST_": _MOUNTED,
        "OIDC_SERVICE_": "no account of a service is needed",
        "STRIPE_": "there is no accounting",
        "SUBSCRIPTION_": "there is no accounting",
        "EMAIL_": "no mail is sent",
        "TOOLS_": "bundles have settings of their own: config in AGENTIC_BUNDLES_JSON",
        "MCP_": "bundles have settings of their own: config in AGENTIC_BUNDLES_JSON",
        "WEB_": "bundles have settings of their own: config in AGENTIC_BUNDLES_JSON",
    }
)

_OURS = ("KDCUBE_", "GATEWAY_", "AGENTIC_", "CHAT_", "OIDC_", "COGNITO_", "PROXYLOGIN_", "POSTGRES_", "REDIS_")
_A_SECRET = re.compile(r"(_API_KEY|_KEY|_TOKEN|_SECRET|_PASSWORD)$")

_OF_THE_SYSTEM = frozenset(
    (
        *("_", "PATH", "HOME", "HOSTNAME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "TZ", "MAIL", "CI"),
        *(
            "TERM",
            "COLORTERM",
            "NO_COLOR",
            "FORCE_COLOR",
            "COLUMNS",
            "LINES",
            "LS_COLORS",
            "LANG",
            "LANGUAGE",
            "DISPLAY",
        ),
        *("TMPDIR", "TMP", "TEMP", "EDITOR", "VISUAL", "PAGER", "VIRTUAL_ENV", "GPG_KEY", "container", "NOTIFY_SOCKET"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy"),
        *("https_proxy", "all_proxy", "no_proxy", "INVOCATION_ID", "JOURNAL_STREAM", "MEMORY_PRESSURE_WATCH"),
        *("MEMORY_PRESSURE_WRITE", "WAYLAND_DISPLAY", "REQUESTS_CA_BUNDLE"),
    )
)
_OF_THE_SYSTEM_BY_PREFIX = (
    *(
        "LC_",
        "PYTHON",
        "PYENV",
        "UV_",
        "PIP_",
        "XDG_",
        "SSH_",
        "DBUS_",
        "LD_",
        "MALLOC_",
        "DEBIAN_",
        "SYSTEMD_",
        "npm_",
    ),
    *("NODE_", "KUBERNETES_", "ECS_", "AWS_CONTAINER_", "AWS_EXECUTION_", "PYTEST", "COV_", "TERM_", "VSCODE_", "GIT_"),
)
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT_\d+_(TCP|UDP)\w*$")


def unused(given: Collection[str], asked: Collection[str], component: str) -> list[str]:
    """One line for each name in ``given`` that ``component`` did not ask for, at most 40 and one that counts the rest.

    What every system has (PATH, LC_ALL, links of Kubernetes) is not listed.
    """
    names = sorted(name for name in given if name not in asked and not _is_of_the_system(name, given))
    told = [f"{_shown(name)}: {_why(name, asked, component)}" for name in names[:UNUSED_MAX]]
    return [*told, f"and {len(names) - UNUSED_MAX} more"] if len(names) > UNUSED_MAX else told


def misspelt(given: Iterable[str]) -> list[str]:
    """Of a whole shell's variables only those that are ours by their beginning, and unknown."""
    ours = ("KDCUBE_", "GATEWAY_", "AGENTIC_")
    unknown = (name for name in given if name.startswith(ours) and name not in READERS and name not in WITHOUT_MEANING)
    return [f"{_shown(name)}: {_why(name, (), '')}" for name in sorted(unknown)[:UNUSED_MAX]]


def _is_of_the_system(name: str, given: Collection[str]) -> bool:
    if name in WITHOUT_MEANING:
        return False
    return (
        name in _OF_THE_SYSTEM
        or name.startswith(_OF_THE_SYSTEM_BY_PREFIX)
        or _SERVICE_LINK.search(name) is not None
        or (name.endswith("_PORT") and f"{name.removesuffix('_PORT')}_SERVICE_HOST" in given)
    )


def _why(name: str, asked: Collection[str], component: str) -> str:
    if name in WITHOUT_MEANING:
        return WITHOUT_MEANING[name]
    readers = READERS.get(name, ())
    if component in readers:
        return "it is not read, as other variables are set"
    if readers:
        return f"{' and '.join(readers)} read{'s' * (len(readers) == 1)} it"
    for prefix, why in _WITHOUT_MEANING_BY_PREFIX.items():
        if name.startswith(prefix):
            return why
    known = sorted({*READERS, *asked})
    cutoff = 0.7 if name.startswith(_OURS) else 0.9
    if close := difflib.get_close_matches(name[:64].upper(), known, n=1, cutoff=cutoff):
        return f"unknown; did you mean {close[0]}?"
    if _A_SECRET.search(name):
        return _GRANTED
    return "unknown"


def _shown(name: str) -> str:
    return name if re.fullmatch(r"\w{1,64}", name, re.ASCII) else repr(name[:64])

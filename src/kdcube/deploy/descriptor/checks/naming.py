"""Variables of services: known, read by that service, and not said by another field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from kdcube.config.documents import Finding, dotted
from kdcube.config.variables import READERS, WITHOUT_MEANING
from kdcube.deploy.descriptor.checks.rule import BOTH, Rule
from kdcube.deploy.descriptor.model import Descriptor

_EACH = "each instance gets its own; remove it"
_RENDERED = "it is the same in every deployment; remove it"
_ROLE = "services ask AWS by their role, and on compose as secrets of the machine; remove it"

OWNERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("INSTANCE_ID", "KDCUBE_REVISION"), _EACH),
        **dict.fromkeys(("KDCUBE_HOST", "KDCUBE_HOME", "GATEWAY_COMPONENT", "KDCUBE_INTERNAL_PORT"), _RENDERED),
        **dict.fromkeys(("CHAT_APP_PORT", "CHAT_PROCESSOR_PORT", "PROXYLOGIN_PORT", "METRICS_PORT"), _RENDERED),
        **dict.fromkeys(("ECS_AGENT_URI", "METRICS_MODE", "METRICS_RUN_ONCE", "KDCUBE_SECRETS_DIR"), _RENDERED),
        **dict.fromkeys(("REDIS_URL",), "data.valkey says it"),
        **dict.fromkeys(
            ("DATABASE_URL", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DATABASE"), "data.postgres says it"
        ),
        **dict.fromkeys(("POSTGRES_USER", "POSTGRES_SSL"), "data.postgres says it"),
        "POSTGRES_PASSWORD": "secrets.postgres_password says where it is",
        "KDCUBE_SESSION_SECRET": "secrets.session says where it is",
        "PROXYLOGIN_ENCRYPTION_KEYS": "secrets.encryption_keys says where they are",
        "OIDC_CLIENT_SECRET": "secrets.oidc_client_secret says where it is",
        "IDP_DB_PATH": "secrets.tokens says where it is",
        "GIT_HTTP_TOKEN": "secrets.git_token says where it is",
        "GIT_SSH_KEY_PATH": "secrets.git_ssh_key says where it is",
        "GIT_SSH_KNOWN_HOSTS": "secrets.git_known_hosts says where they are",
        "GATEWAY_CONFIG_JSON": "gateway says it",
        "KDCUBE_STORAGE_PATH": "storage.path says it",
        "AGENTIC_BUNDLES_JSON": "bundles.registry says it",
        "AGENTIC_BUNDLES_ROOT": "bundles.source says it",
        "BUNDLES_FORCE_ENV_ON_STARTUP": "bundles.force says it",
        "AUTH_PROVIDER": "auth.provider says it",
        "KDCUBE_ANONYMOUS": "auth.anonymous says it",
        "ID_TOKEN_HEADER_NAME": "auth.id_token_header says it",
        "AUTH_TOKEN_COOKIE_NAME": "auth.token_cookie says it",
        "ID_TOKEN_COOKIE_NAME": "auth.id_token_cookie says it",
        "CORS_CONFIG": "auth.cors says it",
        "OIDC_ISSUER": "auth.issuer says it",
        "OIDC_CLIENT_ID": "auth.client_ids says it",
        "OIDC_AUDIENCE": "auth.audiences says it",
        "OIDC_ROLES_CLAIM": "auth.roles_claims says it",
        "OIDC_ALGORITHMS": "auth.algorithms says it",
        "OIDC_CLOCK_SKEW_SEC": "auth.clock_skew_s says it",
        "OIDC_SCOPES": "auth.login.scopes says it",
        "COGNITO_USER_POOL_ID": "auth.user_pool says it",
        "COGNITO_REGION": "auth.region says it",
        "COGNITO_APP_CLIENT_ID": "auth.app_client says it",
        "COGNITO_SERVICE_CLIENT_ID": "auth.service_clients says it",
        "COGNITO_ISSUER": "auth.issuer says it",
        "PROXYLOGIN_PUBLIC_URL": "auth.login.public_url says it",
        "PROXYLOGIN_RETURN_URL": "auth.login.return_url says it",
        "PROXYLOGIN_IDLE_SEC": "auth.login.idle_s says it",
        "PROXYLOGIN_LIFETIME_SEC": "auth.login.lifetime_s says it",
        "PROXYLOGIN_GRACE_SEC": "auth.login.grace_s says it",
        "KDCUBE_TRUSTED_PROXIES": "edge.trusted_proxies says it",
        "KDCUBE_KEEPALIVE_SEC": "edge.keepalive_s says it",
        "INGRESS_CONTAINER_STOP_TIMEOUT_SEC": "services.ingress.stop_grace_s says it",
        "PROC_CONTAINER_STOP_TIMEOUT_SEC": "services.proc.stop_grace_s says it",
        "PROXYLOGIN_STOP_TIMEOUT_SEC": "services.proxylogin.stop_grace_s says it",
        "KDCUBE_SLOTS": "services.proc.slots says it",
        "CHAT_TASK_TIMEOUT_SEC": "services.proc.turn_limit_s says it",
        **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "edge.aws.region says it"),
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), _ROLE),
        "KDCUBE_FAILPOINTS": "it is for tests alone; remove it",
        "KDCUBE_DEBUG_BUNDLES": "it takes the limits of turns away; remove it",
        "METRICS_EXPORT_INTERVAL_SEC": "services.metrics.interval_s says it",
        "METRICS_MAPPING_JSON": "services.metrics.mapping says it",
        "METRICS_SCHEDULER_ENABLED": "services.metrics.cloudwatch and push_gateway say it",
        "METRICS_EXPORT_CLOUDWATCH": "services.metrics.cloudwatch says it",
        "METRICS_CLOUDWATCH_NAMESPACE": "services.metrics.cloudwatch.namespace says it",
        "METRICS_CLOUDWATCH_DIMENSIONS_JSON": "services.metrics.cloudwatch.dimensions says it",
        "METRICS_CLOUDWATCH_REGION": "edge.aws.region says it",
        "METRICS_EXPORT_PROMETHEUS_PUSH": "services.metrics.push_gateway says it",
        "METRICS_PROM_PUSHGATEWAY_URL": "services.metrics.push_gateway says it",
    }
)
"""Variables that stand in no ``env``, and why."""

_CREDENTIALS = re.compile(r"://[^/\s]*@")


def env_is_known_and_said_once(descriptor: Descriptor) -> Iterator[Finding]:
    """A name that is misspelt does nothing; one that another field says would contradict it."""
    for service, settings in descriptor.running.items():
        readable = sorted(name for name, readers in READERS.items() if service in readers and name not in OWNERS)
        for name in settings.env:
            where = dotted(("services", service, "env", name))
            if name in OWNERS:
                yield Finding(where, f"cannot be given here: {OWNERS[name]}")
            elif name in readable:
                continue
            elif name in WITHOUT_MEANING:
                yield Finding(where, f"means nothing here: {WITHOUT_MEANING[name]}")
            elif readers := READERS.get(name):
                yield Finding(where, f"is not read by {service}, but by {', '.join(readers)}")
            elif close := difflib.get_close_matches(name[:64].upper(), readable, n=1, cutoff=0.7):
                yield Finding(where, f"unknown variable; did you mean {close[0]}?", closest=close[0])
            else:
                yield Finding(where, f"unknown variable, which {service} does not read; remove it")


def env_holds_no_credentials(descriptor: Descriptor) -> Iterator[Finding]:
    """Of a URL, such as that of an index of packages. What was given is not repeated."""
    for service, settings in descriptor.running.items():
        for name, value in settings.env.items():
            if _CREDENTIALS.search(value):
                remedy = "give it by secrets.package_index" if name == "UV_DEFAULT_INDEX" else "give it without them"
                yield Finding(dotted(("services", service, "env", name)), f"holds credentials; {remedy}")


RULES = (Rule(BOTH, env_is_known_and_said_once), Rule(BOTH, env_holds_no_credentials))

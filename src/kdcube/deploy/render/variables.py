"""The variables of each service: what the descriptor says in its fields, as services read it. No secret is among them,
and nothing of the place where it is deployed: renderers of compose and ECS add both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kdcube.deploy.descriptor.auth import Callers, Cognito, NoProvider, Oidc, Tokens
from kdcube.deploy.descriptor.bundles import ROOT, FromGit
from kdcube.deploy.descriptor.checks.entering import login_of
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.services import Metrics, ProxyLogin

PORTS: Mapping[str, int] = {"ingress": 8010, "proc": 8020, "proxylogin": 8030, "metrics": 8090, "web-ui": 80}
"""Of each service in its container."""
INTERNAL_PORT_OFFSET = 30
"""From the port of a service to the one where Prometheus reads what it counted."""
HOME = "/var/lib/kdcube"

_PORT_NAMES = {
    "ingress": "CHAT_APP_PORT",
    "proc": "CHAT_PROCESSOR_PORT",
    "proxylogin": "PROXYLOGIN_PORT",
    "metrics": "METRICS_PORT",
}
CONFIGURED = tuple(_PORT_NAMES)
"""The services that read variables of ours."""


def plain_variables(descriptor: Descriptor, service: str) -> dict[str, str]:
    """Of one of ``CONFIGURED``, which is there. ``env`` goes last: checks see to it that it repeats nothing."""
    settings = descriptor.running[service]
    variables = {
        "GATEWAY_COMPONENT": service if service in ("ingress", "proc") else "",
        "GATEWAY_CONFIG_JSON": _json(descriptor.gateway_config.document()),
        "KDCUBE_HOST": "0.0.0.0",  # noqa: S104 - what reaches it is up to the networks that it is rendered with
        _PORT_NAMES[service]: str(PORTS[service]),
    }
    if service != "metrics":
        variables |= _with_stores(descriptor, service)
    match settings:
        case Metrics():
            variables |= _metrics(descriptor, settings)
        case ProxyLogin():
            variables |= _proxylogin(descriptor, settings)
        case _ if service == "ingress":
            variables |= {
                "KDCUBE_KEEPALIVE_SEC": str(descriptor.edge.keepalive_s),
                "INGRESS_CONTAINER_STOP_TIMEOUT_SEC": str(settings.stop_grace_s),
                "CORS_CONFIG": _json(descriptor.auth.cors.model_dump(mode="json")),
            }
        case _:
            variables |= _proc(descriptor)
    return {name: value for name, value in {**variables, **settings.env}.items() if value}


def _with_stores(descriptor: Descriptor, service: str) -> dict[str, str]:
    bundles, auth = descriptor.bundles, descriptor.auth
    return {
        "KDCUBE_INTERNAL_PORT": str(PORTS[service] + INTERNAL_PORT_OFFSET),
        "KDCUBE_HOME": HOME,
        "KDCUBE_STORAGE_PATH": descriptor.storage.path,
        "AGENTIC_BUNDLES_JSON": _json(bundles.registry.model_dump(mode="json", exclude_defaults=True)),
        "AGENTIC_BUNDLES_ROOT": "" if isinstance(bundles.source, FromGit) else ROOT,
        "BUNDLES_FORCE_ENV_ON_STARTUP": "1" if bundles.force else "",
        **_callers(auth),
        **_provider(auth),
        **_login(descriptor),
    }


def _callers(auth: Callers) -> dict[str, str]:
    return {
        "KDCUBE_ANONYMOUS": "1" if auth.anonymous else "0",
        "ID_TOKEN_HEADER_NAME": auth.id_token_header,
        "AUTH_TOKEN_COOKIE_NAME": auth.token_cookie,
        "ID_TOKEN_COOKIE_NAME": auth.id_token_cookie,
    }


def _provider(auth: NoProvider | Tokens | Oidc | Cognito) -> dict[str, str]:
    match auth:
        case Oidc():
            own = {
                "OIDC_ISSUER": auth.issuer,
                "OIDC_CLIENT_ID": ",".join(auth.client_ids),
                "OIDC_AUDIENCE": ",".join(auth.audiences),
                "OIDC_ROLES_CLAIM": ",".join(auth.roles_claims),
                "OIDC_ALGORITHMS": ",".join(auth.algorithms),
                "OIDC_CLOCK_SKEW_SEC": str(auth.clock_skew_s),
            }
        case Cognito():
            own = {
                "COGNITO_USER_POOL_ID": auth.user_pool,
                "COGNITO_REGION": auth.region or "",
                "COGNITO_APP_CLIENT_ID": auth.app_client,
                "COGNITO_SERVICE_CLIENT_ID": ",".join(auth.service_clients),
                "COGNITO_ISSUER": auth.issuer or "",
                "OIDC_CLOCK_SKEW_SEC": str(auth.clock_skew_s),
            }
        case _:
            own = {}
    return {"AUTH_PROVIDER": auth.provider, **own}


def _login(descriptor: Descriptor) -> dict[str, str]:
    """What every service knows of signing in, so that it can tell whose a cookie is."""
    login = login_of(descriptor)
    return {} if login is None else {"PROXYLOGIN_PUBLIC_URL": login.public_url}


def _proxylogin(descriptor: Descriptor, settings: ProxyLogin) -> dict[str, str]:
    login = login_of(descriptor)
    if login is None:
        return {}
    return {
        "PROXYLOGIN_RETURN_URL": login.return_url or "",
        "OIDC_SCOPES": login.scopes,
        "PROXYLOGIN_LIFETIME_SEC": str(login.lifetime_s),
        "PROXYLOGIN_IDLE_SEC": str(login.idle_s),
        "PROXYLOGIN_GRACE_SEC": str(login.grace_s),
        "PROXYLOGIN_STOP_TIMEOUT_SEC": str(settings.stop_grace_s),
    }


def _proc(descriptor: Descriptor) -> dict[str, str]:
    proc = descriptor.services.proc
    return {
        "KDCUBE_SLOTS": str(proc.slots or ""),
        "CHAT_TASK_TIMEOUT_SEC": str(proc.turn_limit_s),
        "PROC_CONTAINER_STOP_TIMEOUT_SEC": str(proc.stop_grace_s),
        "CORS_CONFIG": _json(descriptor.auth.cors.model_dump(mode="json")),
    }


def _metrics(descriptor: Descriptor, metrics: Metrics) -> dict[str, str]:
    aws, cloudwatch = descriptor.edge.aws, metrics.cloudwatch
    exported = cloudwatch is not None or metrics.push_gateway is not None
    return {
        "METRICS_EXPORT_INTERVAL_SEC": str(metrics.interval_s),
        "METRICS_MAPPING_JSON": _json(metrics.mapping) if metrics.mapping else "",
        "METRICS_SCHEDULER_ENABLED": "1" if exported else "0",
        "METRICS_EXPORT_CLOUDWATCH": "0" if cloudwatch is None else "1",
        "METRICS_CLOUDWATCH_NAMESPACE": "" if cloudwatch is None else cloudwatch.namespace,
        "METRICS_CLOUDWATCH_DIMENSIONS_JSON": (
            _json(cloudwatch.dimensions) if cloudwatch is not None and cloudwatch.dimensions else ""
        ),
        "METRICS_CLOUDWATCH_REGION": aws.region if cloudwatch is not None and aws is not None else "",
        "METRICS_EXPORT_PROMETHEUS_PUSH": "0" if metrics.push_gateway is None else "1",
        "METRICS_PROM_PUSHGATEWAY_URL": metrics.push_gateway or "",
    }


def _json(document: object) -> str:
    """On one line, without the characters that the environment files of compose give a meaning."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("'", "\\u0027").replace("$", "\\u0024")

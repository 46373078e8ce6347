"""The files of a deployment by compose. A pure function of the descriptor and a few facts: no secret comes near it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, cast

import yaml

from kdcube.deploy.descriptor.data import PostgresContainer
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.services import Execution
from kdcube.deploy.render.compose.facts import ComposeFacts, project_name, proxy_address, subnet_of
from kdcube.deploy.render.compose.proxy import render_compose_proxy
from kdcube.deploy.render.compose.secret_files import GRANTED, granted_files, secret_files, secret_names
from kdcube.deploy.render.compose.services import (
    render_db_upgrade,
    render_owner,
    render_service,
    render_web_proxy,
)
from kdcube.deploy.render.compose.stores import render_stores
from kdcube.deploy.render.env_file import render_env_file
from kdcube.deploy.render.variables import CONFIGURED, plain_variables

COMPOSE_FILE = "compose.yaml"
PROXY_FILE = "nginx/nginx.conf"
SECRETS = "secrets"
"""The folder beside compose.yaml that the secrets are written into. None of the rendered files is in it."""
ONCE = ("db-upgrade", "volumes")
"""Containers that do one thing at each start, and end."""
STOPPING = (("ingress", "proc", "proxylogin", "web-ui"), ("web-proxy",))
"""Who takes work first, together; then the proxy, through which streams end; then all the others."""

_HEADING = "Rendered by `kdcube compose render`. Do not edit: change kdcube.yaml and render again."


def render(descriptor: Descriptor, facts: ComposeFacts) -> dict[str, str]:
    """Texts by their paths. ``descriptor`` is fit for compose."""
    proxy = render_compose_proxy(descriptor, facts.release)
    variables = {name: _variables(descriptor, facts, name) for name in CONFIGURED if name in descriptor.running}
    images = {name: descriptor.image_of(name, facts.release) for name in descriptor.running}
    revision = f"{facts.release}-{_digest(repr((images, variables)))}"
    files = {
        f".env.{name}": render_env_file(_HEADING, {**told, "KDCUBE_REVISION": revision})
        for name, told in variables.items()
    }
    return {
        COMPOSE_FILE: _compose(descriptor, facts, _digest(proxy)),
        ".env": render_env_file(_HEADING, {"COMPOSE_PROJECT_NAME": project_name(descriptor)}),
        **files,
        PROXY_FILE: proxy,
        ".gitignore": f"{SECRETS}/\n",
    }


def _variables(descriptor: Descriptor, facts: ComposeFacts, service: str) -> dict[str, str]:
    """With what is so by compose: where secrets are, whom to believe, and where code is executed."""
    told = plain_variables(descriptor, service)
    told |= {
        variable: file.mounted
        for file in secret_files(descriptor)
        if (variable := file.readers.get(service)) is not None
    }
    if any(path.startswith(f"{service}/") for path in granted_files(descriptor)):
        told["KDCUBE_SECRETS_DIR"] = GRANTED
    if service in ("ingress", "proc", "proxylogin"):
        told["KDCUBE_TRUSTED_PROXIES"] = f"{proxy_address(descriptor, facts)}/32"
    if service == "proc" and descriptor.services.proc.execution is not Execution.NONE:
        told |= _execution(descriptor, facts)
    return told


def _execution(descriptor: Descriptor, facts: ComposeFacts) -> dict[str, str]:
    workspace, executor = descriptor.storage.workspace, descriptor.services.executor
    told = {"EXEC_WORKSPACE_ROOT": workspace.path}
    if descriptor.services.proc.execution is Execution.DOCKER:
        told["HOST_EXEC_WORKSPACE_PATH"] = workspace.host_path or ""
        if executor is not None:
            told |= {
                "PY_CODE_EXEC_IMAGE": descriptor.image_of("executor", facts.release),
                "PY_CODE_EXEC_TIMEOUT": str(executor.timeout_s),
                "PY_CODE_EXEC_NETWORK_MODE": "bridge" if executor.network else "none",
            }
    return told


def _compose(descriptor: Descriptor, facts: ComposeFacts, configuration: str) -> str:
    ours = [name for name in ("ingress", "proc", "proxylogin", "metrics", "web-ui") if name in descriptor.running]
    services = {
        **render_stores(descriptor),
        "db-upgrade": render_db_upgrade(descriptor, facts),
        "volumes": render_owner(descriptor, facts),
        **{name: render_service(descriptor, facts, name) for name in ours},
        "web-proxy": render_web_proxy(descriptor, facts, configuration),
    }
    subnet = subnet_of(descriptor, facts)
    # Addresses are given out from the upper half: that of the proxy stays free for it.
    dynamic = list(subnet.subnets(prefixlen_diff=1))[1]
    names = sorted({name for service in services for name in secret_names(descriptor, service)})
    volumes = ["proc-home"]
    volumes += ["postgres"] if isinstance(descriptor.data.postgres, PostgresContainer) else []
    volumes += ["storage"] if _has_volume(descriptor) else []
    document: dict[str, Any] = {
        "services": services,
        "networks": {
            "front": {"ipam": {"config": [{"subnet": str(subnet), "ip_range": str(dynamic)}]}},
            "back": {"internal": True},
        },
        "volumes": {name: {} for name in volumes},
        "secrets": {name: {"file": f"./{SECRETS}/{name}"} for name in names},
    }
    text = yaml.dump(_literal(document), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# {_HEADING}\n{text}"


def _has_volume(descriptor: Descriptor) -> bool:
    storage = descriptor.storage
    return storage.path.startswith("file://") and storage.volume is None


class _Dumper(yaml.SafeDumper):
    """Whoever reads it finds everything where it is: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _literal(value: Any) -> Any:
    """Texts in which compose expands nothing."""
    match value:
        case str():
            return value.replace("$", "$$")
        case dict():
            return {key: _literal(each) for key, each in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_literal(each) for each in cast("list[Any]", value)]
        case _:
            return value


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]

"""The first kdcube.yaml of a deployment: all that is needed for compose, and a word on everything else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

SECRETS = "secrets"
"""The folder beside the file, in which the first secrets are made."""
BUNDLES, BUNDLE = "bundles", "hello"
"""The folder of bundles, and the name of the first one."""

_TEMPLATE = """\
# What this deployment is: the only source of everything that is rendered, for compose and for ECS.
#
#   kdcube descriptor check       what is wrong with it, and for which target
#   kdcube descriptor explain     what it comes to, with every default
#   kdcube descriptor schema      a JSON Schema, for completion in editors
#
# Every field: docs/descriptor.md. What is not given here has a default.

version: 1
tenant: {tenant}
project: {project}

# Where people come in: nginx of ours. On AWS a load balancer can do it by itself (alb-paths).
edge:
  kind: proxy
  # hosts: [chat.example.org]

# none, self-signed, or given: {{kind: given, certificate: file:tls/site.pem, key: file:tls/site.key}}
tls: self-signed

# ingress, proc and metrics are always there; web-proxy goes with the edge. Name the others to have them.
services:
  proc:
    slots: 8 # turns at once
  # proxylogin: {{}}

# Each is a container, given ({{kind: given, host: db.example.org, user: kdcube}}), or managed (made on AWS).
data:
  valkey: container
  postgres: container

# Mounted from a folder, from git (each entry with a git_url), or baked into the image of proc.
bundles:
  source: {{kind: mounted, folder: bundles}}
  registry:
    bundles:
      {bundle}@0.1.0: {{path: {bundle}}}

# GATEWAY_CONFIG_JSON without tenant and project: who may send how much, and how much is taken on.
gateway:
  profile: production

# none, simple (a file of tokens), oidc or cognito.
auth: none

# Where they are, never what they are: file:PATH, env:NAME, sm:NAME (Secrets Manager), ssm:NAME (Parameter Store).
secrets:
  session: file:secrets/session
  postgres_password: file:secrets/postgres_password
  valkey_password: file:secrets/valkey_password

# What differs elsewhere, merged over all of the above: kdcube descriptor check --environment staging
# environments:
#   staging:
#     services: {{proc: {{slots: 2}}}}
"""

MADE = ("session", "postgres_password", "valkey_password")
"""The secrets that the first file refers to."""


def first_descriptor(tenant: str, project: str) -> str:
    """Its text. Both are names of a scope."""
    return _TEMPLATE.format(tenant=tenant, project=project, bundle=BUNDLE)


def first_secrets() -> Mapping[str, str]:
    """By the names of their files, each of 256 random bits."""
    return {name: secrets.token_hex(32) for name in MADE}

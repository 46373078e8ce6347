"""kdcube.yaml as text: what is wrong is told at its path, with the remedy, and no secret is repeated."""

from __future__ import annotations

import json

import pytest

from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.reading import Invalid, Valid, environments_of, read_descriptor
from kdcube.deploy.descriptor.references import Reference

BASE = "version: 1\ntenant: acme\nproject: support\n"


def read(text: str, environment: str | None = None) -> Descriptor:
    found = read_descriptor(BASE + text, environment)
    assert isinstance(found, Valid), str(found)
    return found.descriptor


def errors(text: str, environment: str | None = None) -> list[str]:
    found = read_descriptor(BASE + text, environment)
    assert isinstance(found, Invalid), "it is valid"
    return list(map(str, found.errors))


def test_yaml_and_json_are_the_same():
    document = {"version": 1, "tenant": "acme", "project": "support", "edge": "alb-paths"}
    found = read_descriptor(json.dumps(document), json=True)
    assert isinstance(found, Valid) and found.descriptor == read("edge: alb-paths\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("edge: prxy", 'edge: is "prxy"; give one of proxy, alb-paths'),
        ("tls: foo", 'tls: is "foo"; give one of given, none, self-signed'),
        ("tls: {certificate: file:x}", "tls.kind: is missing; give one of given, none, self-signed"),
        ("data: {valkey: given}", "data.valkey.host: is missing; give a text"),
        ("data: {postgres: {kind: given, host: x, storage_gb: 5}}", "data.postgres.storage_gb: unknown field; remove"),
        ("data: {postgres: {kind: given, host: x, password: y}}", "passwords are references under secrets"),
        ("services: {ingres: {}}", "services.ingres: unknown field; did you mean ingress?"),
        ("services: {proc: {count: 0}}", "services.proc.count: is 0; give a whole number from 1 to 1000"),
        ("services: {proc: {image: proc}}", 'services.proc.image: is "proc", which names no version'),
        ("services: {web-proxy: }", "services.web-proxy: is null; leave it out, or give {}"),
        ("services: {proc: {count: 5, scaling: {max: 4}}}", "count is 5; give one from scaling.min (1) to max (4)"),
        ("services: {proc: {scaling: {min: 3, max: 2}}}", "services.proc.scaling.max: is 2, below min, which is 3"),
        ("services: {proc: {env: {A: 1}}}", "services.proc.env.A: is 1; give"),
        ("edge: {hosts: ['a b']}", 'edge.hosts.0: is "a b"; give the name of a host'),
        ("edge: {trusted_proxies: [x]}", 'edge.trusted_proxies.0: is "x"; give a network'),
        ("edge: {aws: {region: moon}}", 'edge.aws.region: is "moon"; give a text such as eu-west-1'),
        ("edge: {aws: {region: eu-west-1, network: {private_subnets: [subnet-01234567]}}}", "give vpc, or leave"),
        ("edge: {aws: {region: eu-west-1, network: {vpc: vpc-01234567}}}", "public_subnets must be two at least"),
        ("edge: {aws: {region: eu-west-1, balancer: {security_group: sg-01234567}}}", "security_group goes with arn"),
        ("edge: {aws: {region: eu-west-1, machines: {min: 5}}}", "edge.aws.machines.min: is 5, above max, which is 4"),
        ("storage: {path: /x}", 'storage.path: is "/x"; give file:///FOLDER or s3://BUCKET/PREFIX'),
        ("auth: oidc", "auth.client_ids: is missing; give a list"),
        ("auth: {provider: oidc, client_ids: [a], issuer: 'http://id.example.org'}", "auth.issuer: is no issuer"),
        ("gateway: {tenant: x}", "gateway.tenant: stands at the top of the descriptor; remove it"),
        ("gateway: {limits: {max_queue_size: many}}", 'gateway.limits.max_queue_size: is "many"; give a whole number'),
        ("gateway: {gateway: {}}", "gateway.gateway: is one too many"),
        ("bundles: {path: x}\ngateway: {}", "bundles.path: unknown field here; entries stand in bundles.registry"),
        ("bundles: {registry: {bundles: {a: {}}}}", "bundles.registry.bundles.a: give path or git_url"),
        ("environments: []", "environments: must be an object of environments by name"),
        ("version: 1", "is no YAML: version is given twice in the same object"),
        ("edge: &a {kind: proxy}\ntls: *a", "aliases are not taken"),
    ],
)
def test_what_is_wrong_is_told_at_its_path(text, told):
    assert any(told in error for error in errors(text)), errors(text)


def test_everything_is_told_at_once():
    text = "edge: prxy\nservices: {proc: {count: 0}}\ngateway: {limits: {x: 1}}\nsecrets: {session: y}\n"
    assert [error.partition(":")[0] for error in errors(text)] == [
        "edge",
        "services.proc.count",
        "secrets.session",
        "gateway.limits.x",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "secrets: {session: hunter2}",
        "secrets: {session: 'vault:hunter2'}",
        "secrets: {session: 'env:hunter2!'}",
        "secrets: {session: 'sm:a b#hunter2'}",
        "secrets: {bundles: {KEY: hunter2}}",
        "secrets: {bundles: hunter2}",
        "secrets: hunter2",
        "secrets: {session: 4711}",
        "secrets: 4711",
        "secrets: [4711]",
        "secrets: {session: {value: hunter2}}",
        "tls: {kind: given, key: hunter2}",
        "bundles: {registry: {bundles: {a: {path: x, secrets: {KEY: hunter2}}}}}",
        "bundles: {registry: {bundles: {a: {path: x, idle_limit_s: hunter2}}}}",
        "bundles: {registry: {bundles: {a: {git_url: 'https://user:hunter2@git.example.org/x'}}}}",
        "auth: {provider: oidc, client_ids: [a], issuer: 'https://user:hunter2@id.example.org'}",
        "environments: {staging: {secrets: {session: hunter2}}}",
    ],
)
def test_what_may_be_a_secret_is_refused_and_not_repeated(text):
    told = "\n".join(errors(text, "staging" if "environments" in text else None))
    assert "hunter2" not in told and "4711" not in told


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("file:secrets/session", ("file", "secrets/session", None)),
        ("file:/etc/kdcube/session", ("file", "/etc/kdcube/session", None)),
        ("env:POSTGRES_PASSWORD", ("env", "POSTGRES_PASSWORD", None)),
        ("sm:acme/kdcube#session", ("sm", "acme/kdcube", "session")),
        ("ssm:/acme/session", ("ssm", "/acme/session", None)),
    ],
)
def test_references_are_read_and_written(text, reference):
    found = Reference.parse(text)
    assert (found.vault, found.name, found.key) == reference and str(found) == text


def test_the_gateway_is_told_what_services_say():
    found = read("services: {proc: {processes: 3}}\ngateway: {profile: production}\n")
    capacity = found.gateway_config.service_capacity
    assert (capacity.proc.processes_per_instance, capacity.ingress.processes_per_instance) == (3, 1)
    assert (found.gateway_config.tenant, found.slots) == ("acme", capacity.proc.concurrent_requests_per_process)


def test_the_proxy_is_there_with_its_edge():
    assert "web-proxy" in read("edge: proxy").running
    assert "web-proxy" not in read("edge: alb-paths").running
    assert read("").image_of("ingress", "1.2.3") == "kdcube-chat-ingress:1.2.3"


ENVIRONMENTS = """\
edge: proxy
tls: {kind: given, certificate: file:a, key: file:b}
services: {proxylogin: {count: 2}, proc: {env: {LOG_LEVEL: info, UV_OFFLINE: "1"}}}
data: {postgres: {kind: container, max_connections: 50}}
edges:
environments:
  staging:
    tls: self-signed
    edge: {hosts: [staging.example.org]}
    services: {proxylogin: null, proc: {env: {LOG_LEVEL: debug}}}
    data: {postgres: managed}
""".replace("edges:\n", "")


def test_an_environment_is_merged_over_the_rest():
    base, staging = read(ENVIRONMENTS), read(ENVIRONMENTS, "staging")
    assert base.services.proxylogin is not None and staging.services.proxylogin is None
    assert staging.edge.kind == "proxy" and staging.edge.hosts == ("staging.example.org",)
    assert staging.tls.kind == "self-signed"
    assert staging.services.proc.env == {"LOG_LEVEL": "debug", "UV_OFFLINE": "1"}
    assert staging.data.postgres.kind == "managed"
    assert environments_of(BASE + ENVIRONMENTS) == ("staging",)


def test_lists_are_replaced_and_the_same_kind_is_merged():
    text = """\
edge: {hosts: [a.example.org, b.example.org]}
data: {postgres: {kind: given, host: db, user: one}}
environments: {x: {edge: {hosts: [c.example.org]}, data: {postgres: {kind: given, user: two}}}}
"""
    found = read(text, "x")
    assert found.edge.hosts == ("c.example.org",)
    assert (found.data.postgres.host, found.data.postgres.user) == ("db", "two")


@pytest.mark.parametrize(
    ("overlay", "told"),
    [
        ("edge: {aws: {region: moon}}", 'environments.x.edge.aws.region: is "moon"'),
        ("tls: nope", 'environments.x.tls: is "nope"'),
        ("gateway: {limits: {proc: {max_queue_sze: 4}}}", "environments.x.gateway.limits.proc.max_queue_sze: unknown"),
        ("version: 2", "environments.x.version: cannot be changed by an environment"),
        ("environments: {}", "environments.x.environments: cannot be changed"),
    ],
)
def test_what_is_wrong_in_an_environment_is_told_there(overlay, told):
    assert any(told in error for error in errors(f"environments:\n  x: {{{overlay}}}\n", "x"))


def test_an_unknown_environment_is_told():
    assert errors("environments: {staging: {}}", "stagin") == ["environments: has no stagin; did you mean staging?"]
    assert "has no environments" in errors("", "x")[0]
    assert "environments.x: must be an object" in errors("environments: {x: 5}", "x")[0]

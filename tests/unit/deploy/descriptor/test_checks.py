"""Each check over the whole descriptor, broken once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdcube.config.variables import READERS
from kdcube.deploy.descriptor.checks.naming import OWNERS
from kdcube.deploy.descriptor.checks.rule import Target
from kdcube.deploy.descriptor.checks.running import FARGATE_MEMORY_MB
from kdcube.deploy.descriptor.checks.verdict import RULES, Verdict, judged
from kdcube.deploy.descriptor.overlays import merged, unfolded
from kdcube.deploy.descriptor.reading import Valid, read_document

GOLDEN = Path(__file__).parents[3] / "golden" / "descriptor"
DOCUMENTS = {file.stem: yaml.safe_load(file.read_text()) for file in GOLDEN.glob("*.yaml")}

OIDC = {"provider": "oidc", "issuer": "https://id.example.org", "client_ids": ["a"]}
LOGIN = {"public_url": "https://chat.example.org"}


def verdict(name: str, change: dict) -> Verdict:
    read = read_document(merged(unfolded(DOCUMENTS[name]), unfolded(change)))
    assert isinstance(read, Valid), str(read)
    return judged(read.descriptor)


def entry(**fields: object) -> dict:
    return {"bundles": {"registry": {"bundles": {"support@2.0.0": fields}}}}


CASES = [
    ("path_routing_has_no_proxy", "baked-bundles", {"services": {"web-proxy": {}}}, "services.web-proxy"),
    ("path_routing_is_of_aws", "smallest", {"edge": "alb-paths"}, "edge.kind"),
    ("ports_of_the_edge_differ", "smallest", {"edge": {"http_port": 443}}, "edge.https_port"),
    ("keepalive_outlasts_no_idle_time", "smallest", {"edge": {"idle_s": 44}}, "edge.idle_s"),
    ("aws_is_told", "full", {"edge": {"aws": None}}, "edge.aws"),
    ("balancer_shows_a_certificate", "full", {"tls": {"acm": None}}, "tls.acm"),
    ("balancer_shows_a_certificate", "full", {"tls": "self-signed"}, "tls.kind"),
    ("proxy_has_its_certificate", "proxy-edge", {"tls": {"key": None}}, "tls.key"),
    ("people_come_by_tls", "smallest", {"tls": "none"}, "tls"),
    ("a_certificate_is_for_a_host", "proxy-edge", {"edge": {"hosts": None}}, "edge.hosts"),
    ("somebody_can_come", "smallest", {"auth": {"provider": "none", "anonymous": False}}, "auth.anonymous"),
    ("proxylogin_has_a_provider", "proxy-edge", {"auth": "none"}, "auth.provider"),
    ("proxylogin_has_a_provider", "proxy-edge", {"auth": {"login": None}}, "auth.login"),
    ("proxylogin_has_a_provider", "proxy-edge", {"services": {"proxylogin": None}}, "auth.login"),
    (
        "login_is_on_this_site",
        "proxy-edge",
        {"auth": {"login": {"public_url": "https://x.example.org"}}},
        "auth.login.public_url",
    ),
    ("login_ends_in_order", "proxy-edge", {"auth": {"login": {"lifetime_s": 600}}}, "auth.login.idle_s"),
    ("sizes_are_of_fargate", "full", {"services": {"ingress": {"cpu": 3}}}, "services.ingress.cpu"),
    ("sizes_are_of_fargate", "full", {"services": {"ingress": {"memory_mb": 2_048}}}, "services.ingress.memory_mb"),
    ("stops_fit_fargate", "full", {"services": {"proc": {"stop_grace_s": 121}}}, "services.proc.stop_grace_s"),
    (
        "the_proxy_outlasts_streams",
        "smallest",
        {"services": {"ingress": {"stop_grace_s": 130}}},
        "services.web-proxy.stop_grace_s",
    ),
    (
        "the_balancer_outlasts_streams",
        "full",
        {"edge": {"aws": {"balancer": {"deregistration_delay_s": 29}}}},
        "edge.aws.balancer.deregistration_delay_s",
    ),
    (
        "connections_are_accepted",
        "smallest",
        {"services": {"proc": {"count": 5, "processes": 3}}},
        "data.postgres.max_connections",
    ),
    (
        "connections_are_accepted",
        "full",
        {"gateway": {"pools": {"pg_max_connections": 203}}},  # 6 x 2 x 6 + 10 x 2 x 6 + 2 x 6 = 204
        "gateway.pools.pg_max_connections",
    ),
    (
        "connections_are_accepted_in_an_upgrade",
        "full",
        {"gateway": {"pools": {"pg_max_connections": 204}}},
        "gateway.pools.pg_max_connections",
    ),
    (
        "processes_are_told_once",
        "full",
        {"gateway": {"service_capacity": {"worker": {"processes_per_instance": 3}}}},
        "gateway.service_capacity.worker.processes_per_instance",
    ),
    (
        "baked_bundles_are_pinned",
        "baked-bundles",
        {"services": {"proc": {"image": "registry.example.org/proc:1"}}},
        "services.proc.image",
    ),
    ("images_can_be_pulled", "full", {"services": {"web-ui": {"image": None}}}, "services.web-ui.image"),
    (
        "images_stay_what_they_are",
        "full",
        {"services": {"ingress": {"image": "registry.example.org/ingress:1"}}},
        "services.ingress.image",
    ),
    (
        "code_is_executed_where_it_can_be",
        "ec2-proc",
        {"services": {"proc": {"launch": "fargate", "cpu": 2, "memory_mb": 4_096, "stop_grace_s": 60}}},
        "services.proc.execution",
    ),
    ("code_is_executed_where_it_can_be", "full", {"services": {"executor": None}}, "services.executor"),
    (
        "compose_has_no_executor",
        "smallest",
        {"services": {"proc": {"execution": "executor"}}},
        "services.proc.execution",
    ),
    (
        "compose_has_no_executor",
        "smallest",
        {"services": {"proc": {"execution": "docker"}}},
        "storage.workspace.host_path",
    ),
    ("the_executor_is_used", "smallest", {"services": {"executor": {}}}, "services.executor"),
    ("machines_are_there", "ec2-proc", {"edge": {"aws": {"machines": None}}}, "edge.aws.machines"),
    ("a_rollout_can_begin", "full", {"services": {"proc": {"count": 1, "scaling": None}}}, "services.proc.count"),
    ("stores_are_not_in_tasks", "full", {"data": {"valkey": "container"}}, "data.valkey.kind"),
    ("stores_are_not_made_by_compose", "smallest", {"data": {"postgres": "managed"}}, "data.postgres.kind"),
    ("stores_are_talked_to_in_secret", "proxy-edge", {"data": {"valkey": {"tls": False}}}, "data.valkey.tls"),
    ("stores_are_talked_to_in_secret", "proxy-edge", {"data": {"postgres": {"tls": "prefer"}}}, "data.postgres.tls"),
    ("files_are_kept", "baked-bundles", {"storage": {"path": "file:///storage"}}, "storage.path"),
    (
        "access_points_are_of_a_file_system",
        "brownfield",
        {"storage": {"efs": {"file_system": None}}},
        "storage.efs.storage",
    ),
    ("mounted_bundles_are_on_efs", "brownfield", {"storage": {"efs": None}}, "storage.efs"),
    (
        "entries_are_where_code_is",
        "brownfield",
        {"bundles": {"source": "git"}},
        'bundles.registry.bundles."support@2.0.0".path',
    ),
    ("entries_are_where_code_is", "brownfield", entry(path="/srv/x"), 'bundles.registry.bundles."support@2.0.0".path'),
    ("entries_are_where_code_is", "brownfield", entry(path="../x"), 'bundles.registry.bundles."support@2.0.0".path'),
    (
        "entries_hold_no_secrets",
        "brownfield",
        entry(config={"model": {"api_key": "hunter2"}}),
        'bundles.registry.bundles."support@2.0.0".config.model.api_key',
    ),
    (
        "granted_secrets_are_somewhere",
        "brownfield",
        entry(secrets=["KEY"]),
        'bundles.registry.bundles."support@2.0.0".secrets',
    ),
    (
        "granted_secrets_come_as_files",
        "proxy-edge",
        entry(secrets={"KEY": "env:KEY"}),
        'bundles.registry.bundles."support@2.0.0".secrets.KEY',
    ),
    ("granted_secrets_are_asked_for", "brownfield", {"secrets": {"bundles": {"KEY": "sm:x"}}}, "secrets.bundles.KEY"),
    (
        "repositories_can_be_read",
        "full",
        {"secrets": {"git_known_hosts": None}},
        'bundles.registry.bundles."sales@1.0.0".git_url',
    ),
    ("needed_secrets_are_there", "full", {"secrets": {"encryption_keys": None}}, "secrets.encryption_keys"),
    ("needed_secrets_are_there", "smallest", {"secrets": {"valkey_password": None}}, "secrets.valkey_password"),
    ("needed_secrets_are_there", "smallest", {"auth": "simple"}, "secrets.tokens"),
    ("secrets_are_used", "full", {"secrets": {"postgres_password": "sm:x"}}, "secrets.postgres_password"),
    ("tasks_read_secrets_in_aws", "full", {"secrets": {"session": "env:SESSION"}}, "secrets.session"),
    ("compose_asks_aws", "smallest", {"secrets": {"session": "ssm:/x"}}, "secrets.session"),
    ("compose_asks_aws", "smallest", {"storage": {"path": "s3://files"}}, "storage.path"),
    (
        "env_is_known_and_said_once",
        "smallest",
        {"services": {"proc": {"env": {"KDCUBE_SLOTS": "4"}}}},
        "services.proc.env.KDCUBE_SLOTS",
    ),
    (
        "env_holds_no_credentials",
        "smallest",
        {"services": {"proc": {"env": {"UV_DEFAULT_INDEX": "https://u:hunter2@x.example.org"}}}},
        "services.proc.env.UV_DEFAULT_INDEX",
    ),
]


@pytest.mark.parametrize(("rule", "name", "change", "path"), CASES, ids=[f"{case[0]}-{case[3]}" for case in CASES])
def test_it_is_found(rule, name, change, path):
    """By that check, at that path; and not before the change."""
    path = path.replace('"', "")
    before, after = verdict(name, {}), verdict(name, change)
    assert (rule, path) not in {(told.rule, told.finding.path.replace('"', "")) for told in before.told}
    found = [told for told in after.told if (told.rule, told.finding.path.replace('"', "")) == (rule, path)]
    assert found, [(told.rule, str(told)) for told in after.told]
    assert "hunter2" not in str(found[0])


def test_every_check_is_broken_once():
    assert {case[0] for case in CASES} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.check.__name__.islower() for rule in RULES)


def test_what_holds_for_one_target_is_labelled():
    found = verdict("smallest", {"data": {"postgres": "managed"}})
    assert str(next(told for told in found.told if told.rule == "stores_are_not_made_by_compose")).startswith(
        "[compose] "
    )
    assert found.fit == ()
    assert verdict("smallest", {}).fit == (Target.COMPOSE,)
    assert verdict("proxy-edge", {}).fit == (Target.COMPOSE, Target.ECS)


@pytest.mark.parametrize(
    ("service", "name", "told"),
    [
        ("proc", "REDIS_URL", "cannot be given here: data.valkey says it"),
        ("proc", "POSTGRES_PASSWORD", "cannot be given here: secrets.postgres_password says where it is"),
        ("proc", "LOG_LEVELL", "unknown variable; did you mean LOG_LEVEL?"),
        ("ingress", "UV_OFFLINE", "is not read by ingress, but by proc"),
        ("proc", "TENANT_ID", "means nothing here: GATEWAY_CONFIG_JSON says it"),
        ("web-proxy", "LOG_LEVEL", "is not read by web-proxy"),
        ("proc", "SOMETHING", "unknown variable, which proc does not read"),
    ],
)
def test_a_variable_that_does_not_belong_there_is_told(service, name, told):
    found = verdict("smallest", {"services": {service: {"env": {name: "x"}}}})
    assert told in str(next(told for told in found.told if told.rule == "env_is_known_and_said_once"))


def test_variables_with_an_owner_are_known():
    """A field that takes a variable over names it as it is read; METRICS_* of exports are read by who exports."""
    assert {name for name in OWNERS if name not in READERS and not name.startswith("METRICS_")} == set()


def test_sizes_of_fargate_are_those_of_its_documentation():
    assert FARGATE_MEMORY_MB[0.25] == (512, 1_024, 2_048)
    assert (FARGATE_MEMORY_MB[4][0], FARGATE_MEMORY_MB[4][-1]) == (8_192, 30_720)
    assert (FARGATE_MEMORY_MB[16][0], FARGATE_MEMORY_MB[16][-1]) == (32_768, 122_880)

"""The files of a deployment by compose: reviewed texts, and what holds for each of them."""

from __future__ import annotations

import os

import pytest
import yaml
from tests.unit.deploy.compose.described import FACTS, GOLDEN, NAMES, described

from kdcube.config.secret_files import SECRET_NAMES
from kdcube.config.variables import READERS
from kdcube.deploy.render.compose.facts import ComposeFacts, project_name, proxy_address, subnet_of
from kdcube.deploy.render.compose.rendering import ONCE, render
from kdcube.deploy.render.compose.services import replicas
from kdcube.deploy.render.variables import CONFIGURED, plain_variables

OF_EXECUTION = {"EXEC_WORKSPACE_ROOT", "HOST_EXEC_WORKSPACE_PATH"}
OF_EXECUTION |= {"PY_CODE_EXEC_IMAGE", "PY_CODE_EXEC_TIMEOUT", "PY_CODE_EXEC_NETWORK_MODE"}


def composed(name: str) -> dict:
    return yaml.safe_load(render(described(name), FACTS)["compose.yaml"])


@pytest.mark.parametrize("name", NAMES)
def test_golden_files(name):
    """KDCUBE_GOLDEN=write writes them, for review."""
    rendered = render(described(name), FACTS)
    folder = GOLDEN / name
    if os.environ.get("KDCUBE_GOLDEN") == "write":
        for path, text in rendered.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    assert rendered == {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_confined(name):
    for service, told in composed(name)["services"].items():
        assert told["read_only"] is True, service
        assert told["cap_drop"] == ["ALL"], service
        assert told["security_opt"] == ["no-new-privileges:true"], service
        assert told["logging"]["options"]["max-size"], service
        assert "privileged" not in told, service
        if service == "volumes":
            assert (told["cap_add"], told["network_mode"]) == (["CHOWN"], "none")
        elif service == "postgres":
            assert "user" not in told
        else:
            assert (told["user"], told.get("cap_add")) == ("10001:10001", None), service
        if service not in ONCE:
            assert told["mem_limit"], service
            assert told["pids_limit"], service
            assert told["restart"] == "unless-stopped", service
            assert told["stop_grace_period"], service


@pytest.mark.parametrize("name", NAMES)
def test_the_proxy_alone_is_reached_from_outside(name):
    document = composed(name)
    assert [service for service, told in document["services"].items() if "ports" in told] == ["web-proxy"]
    assert document["networks"]["back"] == {"internal": True}
    for service in ("valkey", "postgres"):
        assert document["services"].get(service, {"networks": ["back"]})["networks"] == ["back"]


@pytest.mark.parametrize("name", NAMES)
def test_the_socket_of_docker_is_where_code_is_executed_by_it(name):
    descriptor = described(name)
    holding = [
        service
        for service, told in composed(name)["services"].items()
        if any("docker.sock" in volume for volume in told.get("volumes", ()))
    ]
    assert holding == (["proc"] if descriptor.services.proc.execution == "docker" else [])


@pytest.mark.parametrize("name", NAMES)
def test_services_start_when_what_they_need_is_there(name):
    services = composed(name)["services"]
    for told in services.values():
        for needed, how in told.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
            assert how == {"condition": wanted}
    assert {"ingress", "proc"} <= set(services["web-proxy"]["depends_on"])
    for service in ("ingress", "proc"):
        assert set(services[service]["depends_on"]) == {*ONCE, *({"valkey", "postgres"} & set(services))}


@pytest.mark.parametrize("name", NAMES)
def test_a_container_is_killed_when_its_service_says_it_may_be(name):
    """The time to stop that a service plans with is the one that it has."""
    descriptor, services = described(name), composed(name)["services"]
    for service, variable in (
        ("ingress", "INGRESS_CONTAINER_STOP_TIMEOUT_SEC"),
        ("proc", "PROC_CONTAINER_STOP_TIMEOUT_SEC"),
        ("proxylogin", "PROXYLOGIN_STOP_TIMEOUT_SEC"),
    ):
        if service in services:
            told = plain_variables(descriptor, service)[variable]
            assert services[service]["stop_grace_period"] == f"{told}s"


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_read_by_its_service(name):
    descriptor, rendered = described(name), render(described(name), FACTS)
    for service in CONFIGURED:
        if service not in descriptor.running:
            continue
        lines = rendered[f".env.{service}"].splitlines()[1:]
        names = {line.partition("=")[0] for line in lines}
        plain = {n.removesuffix("_FILE") if n.removesuffix("_FILE") in SECRET_NAMES else n for n in names}
        assert {n for n in plain if service not in READERS.get(n, ())} <= OF_EXECUTION
        assert not names & set(SECRET_NAMES), "secrets are in files"


def test_containers_are_instances_by_processes():
    services = composed("signing-in")["services"]
    assert services["ingress"]["scale"] == 4
    assert (services["ingress"]["cpus"], services["ingress"]["mem_limit"]) == (1.5, "1500m")
    assert replicas(described("smallest").services.metrics) == 1


def test_a_deployment_has_a_name_and_a_network_of_its_own():
    smallest, other = described("smallest"), described("signing-in")
    assert project_name(smallest) == "kdcube-acme-support"
    assert project_name(other).startswith("kdcube-acme-customer-support-")
    assert subnet_of(smallest, FACTS) != subnet_of(other, FACTS)
    subnet = subnet_of(other, FACTS)
    given = ComposeFacts(folder=FACTS.folder, release="1", subnet=subnet)
    assert proxy_address(smallest, given) == subnet[2]


def test_the_revision_changes_with_what_runs_and_with_nothing_else():
    def revision(descriptor):
        return [line for line in render(descriptor, FACTS)[".env.proc"].splitlines() if "REVISION" in line]

    smallest = described("smallest")
    proc = smallest.services.proc
    counted = smallest.services.model_copy(update={"proc": proc.model_copy(update={"count": 3})})
    slotted = smallest.services.model_copy(update={"proc": proc.model_copy(update={"slots": 3})})
    assert revision(smallest.model_copy(update={"services": counted})) == revision(smallest)
    assert revision(smallest.model_copy(update={"services": slotted})) != revision(smallest)

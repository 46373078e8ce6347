"""What the files of secrets are made of, and who reads them."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from tests.unit.deploy.compose.described import FACTS, NAMES, described

from kdcube.config.service import check_database_url
from kdcube.deploy.render.compose.rendering import render
from kdcube.deploy.render.compose.secret_files import SecretFile, granted_files, secret_files, secret_names

ODD = "p@ss/wörd:#1% ü"


def files(name: str) -> dict[str, SecretFile]:
    return {file.name: file for file in secret_files(described(name))}


def test_urls_of_containers_carry_any_password():
    found = files("smallest")
    redis, database = urlsplit(found["redis_url"].text(ODD)), urlsplit(found["database_url"].text(ODD))
    assert (redis.username, unquote(redis.password or ""), redis.hostname) == ("kdcube", ODD, "valkey")
    assert (database.username, unquote(database.password or ""), database.path) == ("kdcube", ODD, "/kdcube")
    check_database_url(found["database_url"].text(ODD))


def test_the_metrics_service_signs_in_as_a_reader():
    found = files("smallest")
    url = urlsplit(found["redis_url_metrics"].text(ODD))
    rules = found["valkey_users"].text(ODD)
    assert url.username == "metrics"
    assert url.password not in (None, ODD)
    assert url.password not in rules, "hashed"
    assert ODD not in rules
    lines = {line.split()[1]: line for line in rules.splitlines()}
    assert lines["default"].endswith("-@all +ping")
    assert lines["kdcube"].endswith("~* &* +@all")
    assert "+get" in lines["metrics"]
    assert "+set" not in lines["metrics"]
    assert set(found["redis_url_metrics"].readers) == {"metrics"}
    assert "metrics" not in found["redis_url"].readers


def test_given_stores_are_reached_as_they_are_told():
    found = files("given-stores")
    assert found["redis_url"].text("x") == (
        "rediss://kdcube:x@valkey.example.org:6379/0?ssl_ca_certs=%2Frun%2Fauthorities%2Fvalkey.pem"
    )
    assert found["redis_url_metrics"].text("y").startswith("rediss://reader:y@")
    assert found["database_url"].text("z") == (
        "postgresql://kdcube:z@db.example.org:5432/kdcube?sslmode=verify-full&sslrootcert=%2Frun%2Fauthorities%2F"
        "postgres.pem"
    )
    assert "valkey_users" not in found


def test_each_service_reads_what_it_needs():
    descriptor = described("signing-in")
    assert set(secret_names(descriptor, "metrics")) == {"redis_url_metrics"}
    assert set(secret_names(descriptor, "ingress")) == {"redis_url", "database_url", "session", "encryption_keys"}
    assert set(secret_names(descriptor, "db-upgrade")) == {"database_url"}
    assert set(secret_names(descriptor, "web-proxy")) == {"tls_certificate", "tls_key"}
    assert "oidc_client_secret" in secret_names(descriptor, "proxylogin")
    assert "git_token" not in secret_names(descriptor, "proxylogin")
    assert set(granted_files(descriptor)) == {"ingress/PUSHES", "proc/MODEL_KEY", "proc/SALES_KEY"}


def test_no_reference_is_in_a_rendered_file():
    """Not even where a secret is."""
    for name in NAMES:
        text = "".join(render(described(name), FACTS).values())
        for reference in described(name).secrets.given.values():
            assert str(reference) not in text

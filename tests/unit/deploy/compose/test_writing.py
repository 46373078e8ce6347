"""The folder of a deployment: secrets are in one place of it, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.deploy.compose.described import FACTS, described

from kdcube.config.load import load
from kdcube.config.secrets import SecretSettings
from kdcube.deploy.certificates import expiry_of, names_of
from kdcube.deploy.compose.reading import NoSecret
from kdcube.deploy.compose.running import readers_of
from kdcube.deploy.compose.writing import check_mounts, write_rendered, write_secrets
from kdcube.deploy.descriptor.references import Reference
from kdcube.deploy.render.compose.facts import ComposeFacts
from kdcube.deploy.render.compose.rendering import render
from kdcube.protocol.errors import InvalidInput

MARK = "s3cret-value-of-"
FILES = ("session", "encryption_keys", "oidc", "git", "index", "model", "pushes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of the descriptor signing-in, with its secrets in files."""
    for name in FILES:
        path = tmp_path / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{MARK}{name}\n")
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "site.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    return tmp_path


@pytest.fixture
def descriptor():
    """signing-in, with nothing in AWS."""
    found = described("signing-in")
    secrets = found.secrets.model_copy(
        update={
            "valkey_password": Reference.parse("env:VALKEY"),
            "bundles": {**found.secrets.bundles, "SALES_KEY": Reference.parse("env:SALES")},
        }
    )
    return found.model_copy(update={"secrets": secrets})


def settings() -> SecretSettings:
    names = ("POSTGRES", "VALKEY", "SALES", "SITE_KEY")
    return load(SecretSettings, {name: f"{MARK}{name}" for name in names})


def test_no_secret_is_in_a_rendered_file(descriptor, folder):
    out = folder / "compose"
    write_rendered(render(descriptor, FACTS), out)
    changed = write_secrets(descriptor, folder, settings(), out)
    assert "valkey_users" in changed
    holding = [path for path in out.rglob("*") if path.is_file() and MARK in path.read_text()]
    assert len(holding) > 10
    assert {path.relative_to(out).parts[0] for path in holding} == {"secrets"}
    assert f"{MARK}VALKEY" not in (out / "secrets" / "valkey_users").read_text()


def test_secrets_are_for_their_owner_and_for_containers(descriptor, folder):
    out = folder / "compose"
    write_rendered(render(descriptor, FACTS), out)
    write_secrets(descriptor, folder, settings(), out)
    assert (out / "secrets").stat().st_mode & 0o777 == 0o700
    files = [path for path in (out / "secrets").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o444}
    assert (out / "secrets" / "granted" / "proc" / "SALES_KEY").read_text() == f"{MARK}SALES\n"
    assert not (out / "secrets" / "granted" / "ingress" / "SALES_KEY").exists()
    assert (out / "compose.yaml").stat().st_mode & 0o777 == 0o644


def test_what_has_changed_is_told(descriptor, folder):
    out = folder / "compose"
    assert write_secrets(descriptor, folder, settings(), out)
    assert write_secrets(descriptor, folder, settings(), out) == frozenset()
    (folder / "secrets" / "session").write_text(f"{MARK}another")
    changed = write_secrets(descriptor, folder, settings(), out)
    assert changed == {"session"}
    assert readers_of(descriptor, changed) == {"ingress", "proc"}
    (out / "secrets" / "left").write_text("x")
    write_secrets(descriptor, folder, settings(), out)
    assert not (out / "secrets" / "left").exists()


def test_a_secret_that_is_not_there_is_told_by_its_place(descriptor, folder):
    (folder / "secrets" / "git").unlink()
    with pytest.raises(NoSecret, match=r"secrets\.git_token: .*secrets/git cannot be read: No such file"):
        write_secrets(descriptor, folder, settings(), folder / "compose")
    (folder / "secrets" / "git").write_text("\n")
    with pytest.raises(NoSecret, match=r"secrets\.git_token: file:secrets/git is empty"):
        write_secrets(descriptor, folder, settings(), folder / "compose")
    (folder / "secrets" / "git").write_text("x")
    with pytest.raises(NoSecret, match=r"secrets\.valkey_password: env:VALKEY cannot be read"):
        write_secrets(descriptor, folder, load(SecretSettings, {}), folder / "compose")


def test_a_certificate_of_ours_is_made_once(tmp_path):
    smallest = described("smallest")
    for name in ("session", "postgres_password", "valkey_password"):
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text("x" * 32)
    out, now = tmp_path / "compose", datetime(2026, 1, 1, tzinfo=UTC)

    def written(descriptor, now):
        return write_secrets(descriptor, tmp_path, load(SecretSettings, {}), out, now=now)

    assert {"tls_certificate", "tls_key"} <= written(smallest, now)
    certificate = (out / "secrets" / "tls_certificate").read_bytes()
    assert set(names_of(certificate)) == {"localhost", "127.0.0.1", "::1"}
    assert written(smallest, now + timedelta(days=300)) == frozenset()
    assert written(smallest, expiry_of(certificate) - timedelta(days=20)) == {"tls_certificate", "tls_key"}
    other = smallest.model_copy(update={"edge": smallest.edge.model_copy(update={"hosts": ("a.example.org",)})})
    assert written(other, now) == {"tls_certificate", "tls_key"}


def test_what_is_rendered_takes_the_place_of_what_was(descriptor, tmp_path):
    out = tmp_path / "compose"
    write_rendered(render(descriptor, FACTS), out)
    assert (out / ".env.proxylogin").is_file()
    kept = (out / "nginx" / "nginx.conf").stat().st_ino
    write_rendered(render(descriptor, FACTS), out)
    assert (out / "nginx" / "nginx.conf").stat().st_ino == kept, "it may be mounted"
    write_rendered(render(described("smallest"), FACTS), out)
    assert not (out / ".env.proxylogin").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(InvalidInput, match="was not rendered"):
        write_rendered(render(descriptor, FACTS), tmp_path / "mine")


def test_what_is_mounted_is_there(descriptor, tmp_path):
    facts = ComposeFacts(folder=tmp_path, release="1")
    with pytest.raises(InvalidInput, match=r"bundles\.source\.folder is .*/bundles, which is no folder"):
        check_mounts(descriptor, facts)
    (tmp_path / "bundles").mkdir()
    check_mounts(descriptor, facts)
    with pytest.raises(InvalidInput, match=r"data\.valkey\.authorities is .*/tls/valkey.pem, which is no file"):
        check_mounts(described("given-stores"), facts)

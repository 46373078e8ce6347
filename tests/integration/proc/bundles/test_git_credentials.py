"""What signs in at a bundle's repository may be a secret of its own, and may change."""

from __future__ import annotations

import stat

import pytest
from tests.integration.proc.bundles.git_servers import Remote, http_server, ssh_server

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitSettings
from kdcube.config.secrets import SecretSettings
from kdcube.proc.bundles.sources.credentials import open_git_credentials
from kdcube.proc.bundles.sources.git_source import open_git_store
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.secrets.local import FolderVault
from kdcube.secrets.opening import open_secrets

pytestmark = pytest.mark.anyio


@pytest.fixture
def remote(tmp_path):
    return Remote.make(tmp_path)


@pytest.fixture
def vault(tmp_path, monkeypatch):
    """A folder of secrets, whose files count at once."""
    monkeypatch.setattr(FolderVault, "keeps_s", 0.0)
    monkeypatch.setattr("kdcube.secrets.secrets.RETRY_S", 0.0)
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


async def test_a_token_of_its_own_that_is_rotated(tmp_path, remote, vault):
    first = remote.commit({"a": "1"})
    (vault / "token").write_text("t0ken-one")
    settings = SecretSettings(folder=vault)
    with http_server(remote.bare.parent, token="t0ken-one") as server:
        entry = BundleEntry(id="a@1", git_url=server.url, git_ref="main", git_token="file:token")
        async with open_secrets(settings) as secrets:
            with (
                open_git_credentials(secrets, tmp_path / "keys") as credentials,
                open_git_store(tmp_path / "git", GitSettings(), credentials) as store,
            ):
                assert await store.resolve(entry) == first
                server.token, second = "t0ken-two", remote.commit({"a": "2"})
                with pytest.raises(SourceError) as error:
                    await store.resolve(entry)
                assert "t0ken" not in str(error.value)
                (vault / "token").write_text("t0ken-two\n")
                assert await store.resolve(entry) == second
                (vault / "token").unlink()
                with pytest.raises(SourceError, match=r"the secret file:token cannot be read: .* no such file"):
                    await store.resolve(entry)
                (await store.code(entry, second)).release()  # what is here needs no credentials
                (vault / "token").write_text("two lines\nof it")
                with pytest.raises(SourceError, match="holds a blank or a line end"):
                    await store.resolve(entry)
    assert {presented.partition(":")[2] for presented in server.presented} == {"t0ken-one", "t0ken-two"}


async def test_a_key_of_its_own_is_a_private_file_that_goes_away(tmp_path, remote, vault):
    commit = remote.commit({"a": "1"})
    with ssh_server(tmp_path / "ssh keys") as server:
        (vault / "key").write_bytes(server.key.read_bytes())
        known = GitSettings(ssh_known_hosts=server.known_hosts)
        entry = BundleEntry(id="a@1", git_url=server.url(remote.bare), git_ref="main", git_ssh_key="file:key")
        async with open_secrets(SecretSettings(folder=vault)) as secrets:
            with open_git_credentials(secrets, tmp_path / "keys") as credentials:
                with open_git_store(tmp_path / "git", known, credentials) as store:
                    assert await store.resolve(entry) == commit
                settings = await credentials.of(entry, known)
                assert settings.ssh_key is not None
                assert stat.S_IMODE(settings.ssh_key.stat().st_mode) == 0o600
                assert stat.S_IMODE(settings.ssh_key.parent.stat().st_mode) == 0o700
        assert not settings.ssh_key.parent.exists()

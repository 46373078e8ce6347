from __future__ import annotations

import os

import pytest
from pydantic import SecretStr

from kdcube.config.secrets import SecretReference, Vault
from kdcube.secrets.local import EnvironmentVault, FolderVault, NamedVault
from kdcube.secrets.vault import MAX_BYTES, SecretUnreadable, Unset

pytestmark = pytest.mark.anyio


def file(name: str) -> SecretReference:
    return SecretReference(name, Vault.FILE)


async def test_files_are_read_as_they_are_but_for_one_line_end(tmp_path):
    vault = FolderVault(tmp_path)
    for content, value in ((b"hunter2", "hunter2"), (b"a\n\n", "a\n"), (b"a\r\n", "a"), (b" a ", " a ")):
        (tmp_path / "KEY").write_bytes(content)
        assert await vault.read(file("KEY")) == value


async def test_files_behind_links_are_read_as_kubernetes_swaps_them(tmp_path):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "KEY").write_text(f"value {version}")
    data, key = tmp_path / "..data", tmp_path / "KEY"
    data.symlink_to("1")
    key.symlink_to("..data/KEY")
    vault = FolderVault(tmp_path)
    assert await vault.read(file("KEY")) == "value 1"
    data.unlink()
    data.symlink_to("2")
    assert await vault.read(file("KEY")) == "value 2"


async def test_what_is_no_secret_is_told_without_what_it_says(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"hunter2\xff")
    (tmp_path / "large").write_bytes(b"hunter2" * MAX_BYTES)
    vault = FolderVault(tmp_path)
    for name, reason in (
        ("absent", "KDCUBE_SECRETS_DIR has no such file"),
        ("folder", "it is no file"),
        ("pipe", "it is no file"),
        ("empty", "the file is empty"),
        ("bytes", "not UTF-8"),
        ("large", "larger than"),
    ):
        with pytest.raises(SecretUnreadable, match=f"file:{name} cannot be read: .*{reason}") as error:
            await vault.read(file(name))
        assert "hunter2" not in str(error.value) and not error.value.away
    with pytest.raises(SecretUnreadable, match="KDCUBE_SECRETS_DIR is not set"):
        await FolderVault(None).read(file("KEY"))


async def test_a_plain_name_is_a_file_or_else_a_variable(tmp_path):
    variables = {"KEY": SecretStr("variable"), "OTHER": SecretStr("other")}
    vault = NamedVault(tmp_path, variables.get)
    (tmp_path / "KEY").write_text("file")
    assert await vault.read(SecretReference("KEY")) == "file"
    assert await vault.read(SecretReference("OTHER")) == "other"
    with pytest.raises(Unset, match="neither a file of that name nor the variable"):
        await vault.read(SecretReference("ABSENT"))
    (tmp_path / "KEY").write_text("")
    with pytest.raises(SecretUnreadable, match="KEY cannot be read: the file is empty"):
        await vault.read(SecretReference("KEY"))
    assert (vault.keeps_s, NamedVault(None, variables.get).keeps_s) == (5.0, None)
    with pytest.raises(SecretUnreadable, match="env:ABSENT cannot be read: the variable is not set"):
        await EnvironmentVault(variables.get).read(SecretReference("ABSENT", Vault.ENV))

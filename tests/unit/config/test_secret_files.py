"""NAME_FILE: secrets in files."""

from __future__ import annotations

import pytest

from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load, load_service, misspelt_variables
from kdcube.config.secret_files import SECRET_NAMES, with_secret_files
from kdcube.protocol.errors import ConfigurationError

SECRET = "s3cret-" + "x" * 32


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_each_secret_may_be_in_a_file(tmp_path, name, end):
    (tmp_path / "secret").write_bytes(f"{SECRET}{end}".encode())
    assert with_secret_files({f"{name}_FILE": str(tmp_path / "secret"), "A": "b"}) == {name: SECRET, "A": "b"}


def test_services_are_told_by_files(tmp_path):
    texts = {
        "REDIS_URL": "redis://:pw@cache",
        "DATABASE_URL": "postgresql://u:pw@db/kdcube",
        "KDCUBE_SESSION_SECRET": SECRET,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text + "\n")
    environ = {f"{name}_FILE": str(tmp_path / name) for name in texts}
    settings, told = load_service(IngressSettings, "ingress", environ)
    assert settings.service.redis_url == texts["REDIS_URL"]
    assert settings.callers.session_secret is not None
    assert settings.callers.session_secret.get_secret_value() == SECRET
    assert told == []
    assert misspelt_variables(environ) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "No such file"), (b"", "empty"), (b"\n", "empty"), (b"\xff", "UTF-8"), (b"x" * 70_000, "larger")],
)
def test_a_file_that_holds_no_secret_is_told_with_its_name(tmp_path, content, told):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        load(IngressSettings, {"REDIS_URL_FILE": str(path)})
    assert caught.value.name == "REDIS_URL_FILE"


def test_both_are_too_many(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(ConfigurationError, match="remove one") as caught:
        load(IngressSettings, {"REDIS_URL_FILE": str(tmp_path / "secret"), "REDIS_URL": "redis://other"})
    assert SECRET not in str(caught.value)

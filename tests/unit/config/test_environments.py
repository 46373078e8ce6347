from __future__ import annotations

import pytest

from kdcube.config.environment import Environment
from kdcube.config.environments import EnvironmentSettings
from kdcube.protocol.errors import ConfigurationError

PRIVATE = "https://ada:hunter2@packages.example.org/simple/"


def read(**variables: str) -> EnvironmentSettings:
    return EnvironmentSettings.read(Environment(variables))


def test_without_any_packages_come_from_pypi_and_may_be_built():
    settings = read(no_proxy="localhost", GIT_SSL_CAINFO="/ca")
    assert (settings.indexes, settings.no_build, settings.indexes_alone, settings.secrets) == ({}, False, False, ())
    assert settings.network == {"no_proxy": "localhost"}


@pytest.mark.parametrize(
    ("variables", "no_build", "alone"),
    [
        ({"UV_DEFAULT_INDEX": "https://packages.example.org/simple"}, False, True),
        ({"UV_DEFAULT_INDEX": PRIVATE}, True, True),
        ({"UV_DEFAULT_INDEX": PRIVATE, "UV_NO_BUILD": "0"}, False, True),
        ({"UV_INDEX": f"https://a.example.org/simple acme={PRIVATE}"}, True, False),
        ({"UV_FIND_LINKS": "/wheels,https://example.org/wheels"}, False, True),
        ({"UV_OFFLINE": "1", "UV_NO_BUILD": "1"}, True, True),
    ],
)
def test_where_indexes_have_credentials_nothing_is_built_unless_it_is_said(variables, no_build, alone):
    settings = read(**variables)
    assert (settings.no_build, settings.indexes_alone) == (no_build, alone)
    assert "hunter2" not in repr(settings)
    assert bool(settings.secrets) == ("hunter2" in str(variables))


def test_a_netrc_counts_as_credentials(tmp_path):
    (tmp_path / "netrc").touch()
    assert read(NETRC=str(tmp_path / "netrc")).no_build
    with pytest.raises(ConfigurationError, match="which is no file"):
        read(NETRC=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "variables",
    [
        {"UV_DEFAULT_INDEX": f"{PRIVATE} {PRIVATE}"},
        {"UV_INDEX": "ftp://ada:hunter2@example.org"},
        {"UV_INDEX": "--index=hunter2"},
        {"UV_FIND_LINKS": "wheels/hunter2"},
        {"KDCUBE_ENVIRONMENTS_MAX_BYTES": "0"},
        {"KDCUBE_ENVIRONMENT_TIMEOUT_SEC": "soon"},
    ],
)
def test_what_is_wrong_is_told_by_its_name_and_no_more(variables):
    with pytest.raises(ConfigurationError) as told:
        read(**variables)
    assert told.value.name in variables
    assert "hunter2" not in str(told.value)

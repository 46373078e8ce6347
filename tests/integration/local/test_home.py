"""One `kdcube up` per data folder."""

from __future__ import annotations

import stat

import pytest

from kdcube.local.home import Home, HomeLocked, HomeUnusable


def test_a_folder_serves_one_at_a_time(home):
    with home.locked(), pytest.raises(HomeLocked, match="in use by another"), home.locked():
        pass
    with home.locked():
        pass


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(HomeUnusable, match="cannot be used: Not a directory"),
        Home(tmp_path / "file" / "home").locked(),
    ):
        pass


def test_a_secret_stays_and_is_private(home):
    secret = home.secret("session-secret")
    assert home.secret("session-secret") == secret
    assert len(secret) > 40
    assert stat.S_IMODE((home.path / "session-secret").stat().st_mode) == 0o600

"""What the proxy of this machine needs."""

from __future__ import annotations

import pytest

from kdcube.config.load import load
from kdcube.local.proxy import NginxMissing, find_nginx
from kdcube.local.settings import LocalSettings, ProxyTls
from kdcube.protocol.errors import ConfigurationError


def test_nginx_that_is_not_installed(tmp_path):
    with pytest.raises(NginxMissing, match=r"apt-get install nginx-light, or leave out --proxy"):
        find_nginx(str(tmp_path), beside="")


def test_nginx_is_found_where_users_do_not_look(tmp_path):
    (tmp_path / "nginx").touch(0o755)
    assert find_nginx("", beside=str(tmp_path)) == str(tmp_path / "nginx")


def test_tls_is_chosen_by_name():
    assert load(LocalSettings, {}).proxy_tls is ProxyTls.NONE
    assert load(LocalSettings, {"KDCUBE_PROXY_TLS": "self-signed"}).proxy_tls is ProxyTls.SELF_SIGNED
    with pytest.raises(ConfigurationError, match="give one of none, self-signed, given"):
        load(LocalSettings, {"KDCUBE_PROXY_TLS": "yes"})

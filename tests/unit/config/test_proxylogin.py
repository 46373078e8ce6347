"""proxylogin's settings: what is wrong is named, and no key is shown."""

from __future__ import annotations

import base64

import pytest

from kdcube.config.load import load
from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.protocol.errors import ConfigurationError

KEY = base64.b64encode(b"k" * 32).decode()
GOOD = {
    "GATEWAY_CONFIG_JSON": '{"tenant": "t", "project": "p"}',
    "REDIS_URL": "redis://localhost",
    "DATABASE_URL": "postgresql://localhost/kdcube",
    "AUTH_PROVIDER": "oidc",
    "OIDC_ISSUER": "https://id.example.org",
    "OIDC_CLIENT_ID": "chat",
    "OIDC_CLIENT_SECRET": "the client's secret",
    "PROXYLOGIN_ENCRYPTION_KEYS": KEY,
    "PROXYLOGIN_PUBLIC_URL": "https://chat.example.org/",
}


def test_what_is_needed_is_enough() -> None:
    settings = load(ProxyLoginSettings, GOOD)
    assert settings.callback_url == "https://chat.example.org/auth/callback"
    assert settings.signed_out_url == "https://chat.example.org/"
    assert settings.logins.secure and settings.service.port == 8030
    assert (settings.idle_s, settings.lifetime_s) == (8 * 3600, 86_400)
    assert "the client's secret" not in repr(settings) and "k" * 32 not in repr(settings)


def test_several_keys_in_either_spelling() -> None:
    url_safe = base64.urlsafe_b64encode(b">" * 32).rstrip(b"=").decode()
    settings = load(ProxyLoginSettings, {**GOOD, "PROXYLOGIN_ENCRYPTION_KEYS": f"{'61' * 32}, {KEY}\n{url_safe}"})
    assert settings.logins.keys == (b"a" * 32, b"k" * 32, b">" * 32)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PROXYLOGIN_ENCRYPTION_KEYS", "", "is not set"),
        ("PROXYLOGIN_ENCRYPTION_KEYS", f"{KEY},c2hvcnQ=", "key 2 has not 32 bytes"),
        ("PROXYLOGIN_ENCRYPTION_KEYS", "no base64 at all!", "key 1"),
        ("PROXYLOGIN_ENCRYPTION_KEYS", f"{KEY},{KEY}", "twice"),
        ("PROXYLOGIN_ENCRYPTION_KEYS", ",", "no key"),
        ("PROXYLOGIN_PUBLIC_URL", "", "is not set"),
        ("PROXYLOGIN_PUBLIC_URL", "http://chat.example.org", "https"),
        ("PROXYLOGIN_PUBLIC_URL", "https://chat.example.org/app", "without a path"),
        ("PROXYLOGIN_PUBLIC_URL", "https://user@chat.example.org", "without a path"),
        ("PROXYLOGIN_PUBLIC_URL", "chat.example.org", "https"),
        ("PROXYLOGIN_PUBLIC_URL", "https://chat.example.org:port", "https"),
        ("PROXYLOGIN_RETURN_URL", "javascript:alert(1)", "https"),
        ("PROXYLOGIN_IDLE_SEC", "10", "300"),
        ("PROXYLOGIN_IDLE_SEC", "100000", "PROXYLOGIN_LIFETIME_SEC"),
        ("PROXYLOGIN_LIFETIME_SEC", "31536000", "300 to"),
        ("OIDC_SCOPES", "profile", "openid"),
        ("AUTH_PROVIDER", "simple", "give oidc"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        load(ProxyLoginSettings, {**GOOD, name: value})
    assert caught.value.name == name
    assert KEY not in str(caught.value) and "c2hvcnQ" not in str(caught.value)


def test_http_is_for_this_machine_only() -> None:
    settings = load(ProxyLoginSettings, {**GOOD, "PROXYLOGIN_PUBLIC_URL": "http://127.0.0.1:8030"})
    assert not settings.logins.secure

from __future__ import annotations

import pytest

from kdcube.protocol.errors import ConfigurationError
from kdcube.redis.endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://", Endpoint()),
        ("redis://cache.internal/2", Endpoint(host="cache.internal", db=2)),
        ("redis://:p%40ss@cache:7000", Endpoint(host="cache", port=7000, password="p@ss")),
        ("rediss://ann:s3@cache:7000/1", Endpoint("cache", 7000, tls=True, username="ann", password="s3", db=1)),
        ("redis://[::1]:7000/0", Endpoint(host="::1", port=7000)),
        ("rediss://cache?ssl_ca_certs=/etc/my%20ca.pem", Endpoint("cache", tls=True, ca_file="/etc/my ca.pem")),
        ("redis://cache?db=3", Endpoint("cache", db=3)),
        ("unix://ann:s3@/run/valkey.sock", Endpoint(path="/run/valkey.sock", username="ann", password="s3")),
        ("unix:///run/valkey.sock?db=4", Endpoint(path="/run/valkey.sock", db=4)),
    ],
)
def test_urls(url, endpoint):
    assert parse_endpoint(url) == endpoint


@pytest.mark.parametrize(
    "url", ["", "cache:6379", "http://:pw@cache", "redis://:pw@cache/x", "redis://:pw@c:99999", "unix://"]
)
def test_what_is_no_url_is_refused_without_being_shown(url):
    with pytest.raises(ConfigurationError, match="REDIS_URL") as caught:
        parse_endpoint(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rediss://:pw@cache?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("redis://:pw@cache?ssl_ca_certs=/ca.pem", "ssl_ca_certs"),
        ("unix:///run/valkey.sock?password=pw", "password"),
    ],
)
def test_a_parameter_that_would_not_count_is_refused(url, name):
    with pytest.raises(ConfigurationError, match=f"unknown parameter '{name}'; give redis://") as caught:
        parse_endpoint(url)
    assert "pw" not in str(caught.value)


def test_an_endpoint_never_shows_its_password():
    endpoint = parse_endpoint("rediss://ann:hunter2@cache/1")
    assert "hunter2" not in f"{endpoint} {endpoint!r}"
    assert str(endpoint) == "rediss://cache:6379/1"

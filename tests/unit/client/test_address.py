from __future__ import annotations

import pytest

from kdcube.client.address import base_url, is_local
from kdcube.protocol.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8010", "http://127.0.0.1:8010/chatbot/api"),
        ("https://chat.example.org/", "https://chat.example.org/chatbot/api"),
        ("https://chat.example.org/chatbot", "https://chat.example.org/chatbot/api"),
        ("https://chat.example.org/chatbot/api/", "https://chat.example.org/chatbot/api"),
        ("https://example.org/team/chatbot/api", "https://example.org/team/chatbot/api"),
        ("localhost:8010", "http://localhost:8010/chatbot/api"),
        ("http://[::1]:8010", "http://[::1]:8010/chatbot/api"),
    ],
)
def test_an_installation_is_found_by_what_people_call_it(given, url):
    assert base_url(given) == url


@pytest.mark.parametrize("given", ["", "ftp://example.org", "http://", "http://host:port", "http://host:99999"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(InvalidInput):
        base_url(given)


def test_an_address_with_a_password_is_refused_without_showing_it():
    with pytest.raises(InvalidInput) as caught:
        base_url("http://me:hidden@example.org")
    assert "hidden" not in str(caught.value)


def test_this_machine_is_known():
    assert is_local("http://127.0.0.1:8010/chatbot/api")
    assert not is_local("https://chat.example.org/chatbot/api")

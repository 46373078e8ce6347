"""Nobody is sent to another site after signing in, in whatever spelling."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcube.protocol.errors import InvalidInput
from kdcube.proxylogin.return_to import MAX_CHARS, checked_return_to

ELSEWHERE = [
    "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "\\/evil.example", "/\t/evil.example",
    "/\n/evil.example", "/%2f%2fevil.example/..", "%2f%2fevil.example", "/%2fevil.example", "/%5cevil.example",
    "/%255cevil.example", "/%25252fevil.example", "/%09/evil.example", "/%0d%0aSet-Cookie:a=b", "/a\r\nSet-Cookie: a=b",
    "/%00", "https://evil.example", "HTTPS://evil.example", "https:evil.example", "http:/evil.example", "javascript:1",
    "javascript://%0aalert(1)", "data:text/html,x", "evil.example", ".evil.example", "@evil.example",
    "?a=//evil.example",
    "#//evil.example", " /a", "/a b", "/\u2044evil", "/／evil.example", "/\u200b/evil", "/a\x7f", "/" + "a" * MAX_CHARS,
    "/auth/login", "/auth", "/AUTH/login?return_to=/auth/login", "/%61uth/login", "/auth/callback?code=1",
    "/\\/evil.example", "/.\\evil.example", "/%2525252525252f%2fevil.example",
]  # fmt: skip


@pytest.mark.parametrize("given", ELSEWHERE)
def test_what_is_no_path_of_this_site_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput, match="return_to"):
        checked_return_to(given)


@pytest.mark.parametrize(
    "given",
    ["/", "/c/123", "/c/123?tab=files&q=%2F%2Fx%0A#end", "/a//b", "/caf%C3%A9", "/authors", "/c/1?u=https://x.y"],
)
def test_a_path_of_this_site_stays_as_it_is(given: str) -> None:
    assert checked_return_to(given) == given


def test_without_one_it_is_the_beginning() -> None:
    assert checked_return_to(None) == checked_return_to("") == "/"


@given(st.text(alphabet="/\\%25fFcC0aA9dD.:@?#&evil\t\r\n ", min_size=1, max_size=24))
def test_whatever_passes_stays_on_this_site(given: str) -> None:
    try:
        passed = checked_return_to(given)
    except InvalidInput:
        return
    for base in ("https://chat.example.org", "https://chat.example.org/auth/callback"):
        assert urlsplit(urljoin(base, passed)).netloc == "chat.example.org"
    assert not any(ord(each) < 0x21 for each in passed)

"""Downloads and names."""

from __future__ import annotations

import pytest

from kdcube.ingress.views import attachment, iso


@pytest.mark.parametrize(
    ("title", "plain", "full"),
    [
        ("A plan", "A plan", "A%20plan"),
        ("", "conversation", "conversation"),
        ("../../etc/passwd", "etc-passwd", "etc-passwd"),
        ('a"; filename="b\r\nX: y', "a- filename-b-X- y", "a-%3B%20filename%3D-b-X-%20y"),
        ("日本", "conversation", "%E6%97%A5%E6%9C%AC"),
        ("x" * 200, "x" * 80, "x" * 80),
    ],
)
def test_a_download_has_a_safe_name(title: str, plain: str, full: str) -> None:
    header = attachment(title, "md")
    assert "\n" not in header and "\r" not in header and header.isascii() and header.count('"') == 2
    assert f'filename="{plain}.md"' in header
    assert header.endswith(f"filename*=UTF-8''{full}.md")


def test_times_are_iso_8601() -> None:
    assert iso(1_700_000_000_123) == "2023-11-14T22:13:20.123+00:00"

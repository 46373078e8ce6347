"""What servers of git say, and how it is known to be theirs."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import msgspec
import pytest
from starlette.datastructures import Headers

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.pushes import OtherEvent, Push, cause_of, concerns, event_of, is_genuine, is_presented

BODY = b'{"ref": "refs/heads/main", "after": "c0ffee"}'
SECRET = "It's a Secret to Everybody"


def signed(body: bytes = BODY, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": f"sha256={signed()}"},
        {"X-Gitea-Signature": signed()},
        {"X-Forgejo-Signature": signed(), "X-Hub-Signature-256": f"sha256={signed()}"},
        {"X-Gitlab-Token": SECRET},
    ],
)
def test_who_knows_the_secret_is_believed(headers: dict[str, str]) -> None:
    assert is_genuine(Headers(headers), BODY, SECRET)


def test_githubs_own_example() -> None:
    """Of docs.github.com, "Validating webhook deliveries"."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_genuine(Headers({"X-Hub-Signature-256": signature}), b"Hello, World!", "It's a Secret to Everybody")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": signed()},  # without the name of the hash
        {"X-Hub-Signature-256": f"sha1={signed()}"},
        {"X-Hub-Signature-256": f"sha256={signed(b'other')}"},
        {"X-Hub-Signature-256": f"sha256={signed(secret='other')}"},
        {"X-Hub-Signature-256": f"sha256={signed()}", "X-Gitlab-Token": "wrong"},
        {"X-Hub-Signature-256": "sha256=", "X-Gitea-Signature": signed()},
        {"X-Gitea-Signature": signed().upper()},
        {"X-Gitea-Signature": "ü"},
        {"X-Hub-Signature": hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest()},
        {"X-Gitlab-Token": ""},
        {"X-Gitlab-Token": SECRET + " "},
    ],
)
def test_nobody_else_is(headers: dict[str, str]) -> None:
    assert not is_genuine(Headers(headers), BODY, SECRET)


def test_no_secret_proves_nothing() -> None:
    assert not is_genuine(Headers({"X-Gitlab-Token": ""}), BODY, "")
    assert not is_genuine(Headers({"X-Gitea-Signature": signed(secret="")}), BODY, "")
    assert not is_presented(Headers({"X-GitHub-Event": "push"}))


def test_a_signed_body_counts_once_and_a_token_proves_no_body() -> None:
    one, other = (cause_of(Headers({"X-Gitea-Signature": "x"}), body) for body in (BODY, b"{}"))
    assert one and other and one != other
    assert cause_of(Headers({"X-Gitlab-Token": SECRET}), BODY) is None


def event(body: dict[str, Any], header: str = "X-GitHub-Event", name: str = "push") -> Any:
    return event_of(Headers({header: name}), json.dumps(body).encode())


def test_pushes_of_all_servers() -> None:
    about = {"repository": {"default_branch": "main"}}
    assert event({"ref": "refs/heads/main", "after": "c0", **about}) == Push("refs/heads/main", "c0", "main")
    assert event({"ref": "refs/tags/v1", "after": "c0"}, "X-Gitea-Event") == Push("refs/tags/v1", "c0", None)
    of_gitlab = {"ref": "refs/heads/main", "after": "c0", "project": {"default_branch": "main"}, "repository": {}}
    assert event(of_gitlab, "X-Gitlab-Event", "Push Hook") == Push("refs/heads/main", "c0", "main")
    assert event(of_gitlab, "X-Gitlab-Event", "Tag Push Hook").commit == "c0"
    assert event({"ref": "refs/heads/x", "after": "0" * 40}).commit is None
    assert event({"ref": "refs/heads/x", "after": "c0", "deleted": True}).commit is None
    assert event({"zen": "…"}, name="ping") == OtherEvent("ping")


@pytest.mark.parametrize("body", [b"", b"payload=%7B%7D", b"[]", b'{"ref": 1}', b'{"repository": []}', b"\xff"])
def test_what_is_no_push(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        event_of(Headers({"X-GitHub-Event": "push"}), body)


@pytest.mark.parametrize(
    ("ref", "pushed", "concerned"),
    [
        ("main", "refs/heads/main", True),
        ("v1", "refs/tags/v1", True),
        ("refs/heads/main", "refs/heads/main", True),
        ("refs/tags/main", "refs/heads/main", False),
        ("main", "refs/heads/other", False),
        ("main", "refs/heads/feature/main", False),
        ("c0ffee" * 6 + "c0ff", "refs/heads/main", False),  # pinned to a commit
        (None, "refs/heads/main", True),
        (None, "refs/heads/other", False),
        (None, "refs/tags/main", False),
    ],
)
def test_only_what_is_served_counts(ref: str | None, pushed: str, concerned: bool) -> None:
    entry = BundleEntry(id="a", git_url="https://git.test/a", git_ref=ref)
    assert concerns(Push(pushed, "c0", "main"), entry) is concerned
    assert not concerns(Push(pushed, None, "main"), entry)
    assert not concerns(Push(pushed, "c0", "main"), BundleEntry(id="a", path="/a"))

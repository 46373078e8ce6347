"""What servers of git say when something is pushed, and how it is known to be theirs. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from kdcube.config.bundles import BundleEntry

_SIGNATURES = (("x-hub-signature-256", "sha256="), ("x-gitea-signature", ""), ("x-forgejo-signature", ""))
"""HMAC-SHA256 of the body in hexadecimal digits, by header and what stands before it."""
_TOKEN = "x-gitlab-token"  # noqa: S105 (the header)
_EVENTS = ("x-github-event", "x-gitea-event", "x-forgejo-event", "x-gitlab-event")
_PUSHES = frozenset({"push", "Push Hook", "Tag Push Hook"})


@dataclass(frozen=True, slots=True)
class Push:
    """A branch or tag has moved to ``commit``; None: it is gone."""

    ref: str
    commit: str | None
    default_branch: str | None
    """What the repository calls its own branch."""


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Something else that happened there."""

    name: str


Event: TypeAlias = Push | OtherEvent


class _Repository(msgspec.Struct):
    default_branch: str | None = None


class _Body(msgspec.Struct):
    ref: str = ""
    after: str | None = None
    deleted: bool = False
    repository: _Repository | None = None
    project: _Repository | None = None


_BODY = msgspec.json.Decoder(_Body)


def is_presented(headers: Mapping[str, str]) -> bool:
    """Whether something claims to prove the sender: without it the body need not be read."""
    return any(name in headers for name in (*(name for name, _ in _SIGNATURES), _TOKEN))


def is_genuine(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether whoever sent it knows ``secret``, by a signature of the body, or by GitLab's token. Everything that is
    presented must be right. In constant time.
    """
    if not secret or not is_presented(headers):
        return False
    digest = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    genuine = True
    for name, before in _SIGNATURES:
        if name in headers:
            genuine &= hmac.compare_digest(headers[name].encode(), (before + digest).encode())
    if _TOKEN in headers:
        genuine &= hmac.compare_digest(headers[_TOKEN].encode(), secret.encode())
    return genuine


def cause_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """What makes a signed push count once, however often it is sent. A token proves no body, so that there is none."""
    return None if _TOKEN in headers else hashlib.sha256(body).hexdigest()


def event_of(headers: Mapping[str, str], body: bytes) -> Event:
    """Raises msgspec.DecodeError for a push that is none."""
    name = next((headers[header] for header in _EVENTS if header in headers), "")
    if name not in _PUSHES:
        return OtherEvent(name)
    given = _BODY.decode(body)
    branch = next((one.default_branch for one in (given.repository, given.project) if one and one.default_branch), None)
    gone = given.deleted or given.after is None or not given.after.strip("0")
    return Push(given.ref, None if gone else given.after, branch)


def concerns(push: Push, entry: BundleEntry) -> bool:
    """Whether what the bundle serves has moved."""
    if entry.path is not None or push.commit is None:
        return False
    ref = entry.git_ref
    if ref is None:
        own = push.default_branch
        return push.ref.startswith("refs/heads/") if own is None else push.ref == f"refs/heads/{own}"
    return push.ref in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}")

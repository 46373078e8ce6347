"""The registry of bundles by its routes for administrators, and pushes. Proc's part is played by the test."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.ingress.asking import body, refused, sent
from tests.integration.ingress.conftest import BUNDLES, SCOPE, Bench, BenchWith

from kdcube.gateway.bundles.activity import Active, activity
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import open_database
from kdcube.postgres.release_records import Given, Plan, Release
from kdcube.postgres.releases import MAX_WANTED, Releases
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources
from kdcube.telemetry.instruments import Instruments

pytestmark = pytest.mark.anyio
ALL = "/admin/bundles"
ECHO = f"{ALL}/echo"
GIT = {"id": "git", "git_url": "https://git.test/a", "git_ref": "main", "webhook_secret": "PUSH_SECRET"}
ROUTES = [
    ("GET", ALL),
    ("POST", ALL),
    ("PATCH", ALL),
    ("POST", f"{ALL}/validate"),
    ("GET", ECHO),
    ("PUT", ECHO),
    ("PATCH", ECHO),
    ("DELETE", ECHO),
    ("POST", f"{ECHO}/reload"),
    ("POST", f"{ECHO}/rollback"),
    ("GET", f"{ECHO}/releases"),
    ("GET", f"{ECHO}/releases/1"),
]
SECRET = "correct horse"


@pytest.fixture
async def releases(database_url: str) -> AsyncIterator[Releases]:
    """With the bench's environment, as a proc registers it at its start."""
    entries = {**BUNDLES["bundles"], "git": GIT}
    given = [Given(id_, {"id": id_, **entry}, ready="path" in entry) for id_, entry in entries.items()]
    async with open_database(database_url) as database:
        releases = Releases(database, Audit(database, *SCOPE), *SCOPE)
        await releases.adopt(lambda _: Plan(given, "echo"), Actor("system:proc"), None)
        for wanted in await releases.wanted():
            await releases.settle_ready(wanted, "c0")
        yield releases


@pytest.fixture
async def bench(bench_with: BenchWith, releases: Releases) -> Bench:
    return await bench_with(AGENTIC_BUNDLES_JSON=json.dumps({"bundles": {"git": GIT}}), PUSH_SECRET=SECRET)


@pytest.fixture
async def root(bench: Bench) -> httpx.AsyncClient:
    return await bench.client("root-token")


async def told(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()


async def prepared(releases: Releases, problem: str | None = None, revision: str | None = None) -> None:
    """What the leading proc does with everything that is wanted."""
    for wanted in await releases.wanted():
        if problem is None:
            assert await releases.settle_ready(wanted, revision)
        else:
            assert await releases.settle_failed(wanted, problem)


async def ids(client: httpx.AsyncClient) -> set[str]:
    return {item["id"] for item in (await told(await client.get("/bundles")))["items"]}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_administrators_come_in(bench: Bench, method: str, path: str) -> None:
    anonymous, alice = await bench.client(), await bench.client("alice-token")
    refused(await anonymous.request(method, path, json={}), 401)
    refused(await alice.request(method, path, json={}), 403, "not_administrator")
    browser = await bench.client()
    browser.cookies.set("__Secure-LATC", "root-token")
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    if method != "GET":
        refused(await browser.request(method, path, json={}, headers=headers), 403, "cross_site")


async def test_what_is_registered_is_served(bench: Bench, root: httpx.AsyncClient) -> None:
    listed = await told(await root.get(ALL))
    assert [item["bundle_id"] for item in listed["items"]] == ["echo", "git", "members", "other"]
    assert listed["default_bundle_id"] == "echo"
    shown = await root.get(ECHO)
    assert shown.headers["etag"] == '"1"'
    echo = await told(shown)
    assert (echo["default"], echo["served"]["number"], echo["served"]["origin"]) == (True, 1, "environment")
    assert echo["served"]["entry"] == {"id": "echo", "path": "/bundles/echo", "name": "Echo"}
    assert await ids(root) == {"echo", "git", "members", "other"}
    assert (await told(await root.get("/ready")))["bundles_sequence"] == listed["sequence"]


async def test_a_bundle_is_added_when_it_has_been_prepared(
    bench: Bench, bench_with: BenchWith, root: httpx.AsyncClient, releases: Releases
) -> None:
    other = await (await bench_with()).client("alice-token")
    response = await root.post(f"{ALL}?reason=a+test", json={"id": "new", "path": "/bundles/new"})
    added = await told(response, 202)
    assert (added["release"]["state"], added["active"], added["release"]["reason"]) == ("wanted", False, "a test")
    assert response.headers["etag"] == '"1"'
    waiting = refused(await root.post("/sse/chat", json=body("hi", bundle_id="new")), 503, "bundle_preparing")
    assert waiting["retry_after_s"] >= 1
    await prepared(releases)
    await told(await root.patch(ALL, json={"default_bundle_id": "new"}))  # this process looks, and tells the others
    assert (await sent(root, bundle_id="new"))["turn_id"]
    while "new" not in await ids(other):
        await asyncio.sleep(0.01)
    assert (await told(await other.get("/profile")))["default_bundle_id"] == "new"
    refused(await root.post(ALL, json={"id": "new", "path": "/bundles/new"}), 409, "bundle_exists")


async def test_what_fails_is_told_and_what_was_served_goes_on(root: httpx.AsyncClient, releases: Releases) -> None:
    await told(await root.patch(ECHO, json={"path": "/bundles/broken"}), 202)
    await prepared(releases, "bundle.py:3: it raises at import")
    release = await told(await root.get(f"{ECHO}/releases/2"))
    assert (release["release"]["state"], release["active"]) == ("failed", False)
    assert release["release"]["problem"] == "bundle.py:3: it raises at import"
    shown = await told(await root.get(ECHO))
    assert (shown["served"]["number"], shown["last"]["number"], shown["base"]["number"]) == (1, 2, 1)
    assert (await sent(root, bundle_id="echo"))["turn_id"]

    await told(await root.post(ALL, json={"id": "new", "path": "/bundles/new"}), 202)
    await prepared(releases, "secret words of a traceback")
    await told(await root.patch(ALL, json={"default_bundle_id": "other"}))
    answer = await root.post("/sse/chat", json=body("hi", bundle_id="new"))
    refused(answer, 503, "bundle_unavailable")
    assert "secret" not in answer.text


async def test_of_two_administrators_the_second_is_told(root: httpx.AsyncClient) -> None:
    tag = (await root.get(ECHO)).headers["etag"]
    first, second = ({"path": f"/bundles/{name}"} for name in ("first", "second"))
    await told(await root.put(ECHO, json=first, headers={"If-Match": tag}), 202)
    refused(await root.put(ECHO, json=second, headers={"If-Match": tag}), 412, "precondition_failed")
    refused(await root.put(ECHO, json=second), 428, "precondition_required")
    for method, path in (("PATCH", ECHO), ("DELETE", ECHO), ("POST", f"{ECHO}/reload"), ("POST", f"{ECHO}/rollback")):
        refused(await root.request(method, path, json={}, headers={"If-Match": tag}), 412)
    changed = await told(await root.put(ECHO, json=second, headers={"If-Match": '"2"'}), 202)
    assert changed["release"]["entry"] == {"id": "echo", "path": "/bundles/second"}
    sequence = (await root.get(ALL)).headers["etag"]
    await told(await root.patch(ALL, json={"default_bundle_id": "other"}, headers={"If-Match": sequence}))
    refused(await root.patch(ALL, json={"default_bundle_id": "echo"}, headers={"If-Match": sequence}), 412)


async def test_at_the_same_moment_one_wins(root: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(root.patch(ECHO, json={"path": f"/bundles/{number}"}) for number in range(4)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(202) >= 1
    assert set(codes) <= {202, 409}
    numbers = [answer.json()["release"]["number"] for answer in answers if answer.status_code == 202]
    assert len(set(numbers)) == len(numbers)


async def test_the_same_again_is_no_release(root: httpx.AsyncClient) -> None:
    same = await told(await root.patch(ECHO, json={"name": "Echo"}))
    assert (same["changed"], same["release"]["number"]) == (False, 1)


async def test_the_default_bundle_goes_when_another_takes_its_place(
    root: httpx.AsyncClient, releases: Releases
) -> None:
    assert refused(await root.delete(ECHO), 409, "default_bundle")["field"] == "default"
    refused(await root.delete(f"{ECHO}?default=echo"), 400)
    refused(await root.delete(f"{ECHO}?default=nobody"), 400)
    removed = await told(await root.delete(f"{ECHO}?default=other&reason=old"))
    assert (removed["release"]["entry"], removed["release"]["state"]) == (None, "ready")
    assert await ids(root) == {"git", "members", "other"}
    assert (await told(await root.get("/bundles")))["default_bundle_id"] == "other"
    refused(await root.post("/sse/chat", json=body("hi", bundle_id="echo")), 400)
    for method, path in (("PATCH", ECHO), ("DELETE", ECHO), ("POST", f"{ECHO}/reload")):
        refused(await root.request(method, path, json={}), 404, "bundle_not_found")

    back = await told(await root.post(f"{ECHO}/rollback"), 202)
    assert (back["release"]["number"], back["release"]["entry"]["path"]) == (3, "/bundles/echo")
    for bundle_id in ("git", "members"):
        await told(await root.delete(f"{ALL}/{bundle_id}"))
    await told(await root.delete(f"{ALL}/other"))  # the last that is served
    assert (await told(await root.get("/bundles"))) == {"items": [], "default_bundle_id": None}
    await prepared(releases)
    assert (await releases.served()).default_bundle_id == "echo"  # the only one


async def test_reload_and_rollback(root: httpx.AsyncClient, releases: Releases) -> None:
    git = f"{ALL}/git"
    for commit in ("c1", "c1", "c2"):
        reloaded = await told(await root.post(f"{git}/reload"), 202)
        assert reloaded["release"]["revision"] is None
        await prepared(releases, revision=commit)
    await told(await root.patch(git, json={"git_ref": "v2"}), 202)
    await prepared(releases, "no such ref")

    back = await told(await root.post(f"{git}/rollback"), 202)  # past what failed, and past the same
    assert (back["release"]["revision"], back["release"]["origin"]) == ("c1", "rollback")
    assert back["release"]["entry"]["git_ref"] == "main"
    await prepared(releases, revision="c1")
    chosen = await told(await root.post(f"{git}/rollback", json={"number": 1}), 202)
    assert chosen["release"]["revision"] == "c0"
    for wrong, status in ((5, 400), (99, 404), (0, 400), ("1", 400), (True, 400), (None, 400)):
        assert refused(await root.post(f"{git}/rollback", json={"number": wrong}), status)["field"] == "number"
    refused(await root.post(f"{ECHO}/rollback"), 404, "release_not_found")

    page = await told(await root.get(f"{git}/releases?limit=2"))
    assert [(one["number"], one["origin"], one["state"]) for one in page["items"]] == [
        (7, "rollback", "wanted"),
        (6, "rollback", "ready"),
    ]
    rest = await told(await root.get(f"{git}/releases?cursor={page['next']}"))
    assert [one["origin"] for one in rest["items"]] == ["update", "reload", "reload", "reload", "environment"]


async def test_each_proc_tells_what_it_runs(root: httpx.AsyncClient, releases: Releases, valkey_url: str) -> None:
    async def report(instance: str, number: int, problem: str | None = None, **more: Any) -> None:
        about = {**activity({"echo": Active(number, "abc", problem)}), **more}
        written = {**Instruments().report(), "source": instance, "component": "proc", "about": about}
        await sources.write(instance, written, kept_s=60, listed_s=60)

    async with open_connection(valkey_url, name="test") as connection:
        sources = Sources(connection, Keys(*SCOPE))
        await told(await root.post(f"{ECHO}/reload"), 202)
        await prepared(releases)
        path = f"{ECHO}/releases/2"
        assert (await told(await root.get(path)))["procs"] == []
        await report("p1", 2)
        await report("p2", 1, "the git server is away")
        await report("p3", 1, draining=True)
        release = await told(await root.get(path))
        assert release["procs"] == [
            {"instance": "p1", "number": 2, "version": "abc", "problem": None},
            {"instance": "p2", "number": 1, "version": "abc", "problem": "the git server is away"},
        ]
        assert (release["active"], release["served"]) == (False, True)
        await report("p2", 3)  # a later one
        assert (await told(await root.get(path)))["active"]
        assert (await told(await root.get(ALL)))["items"][0]["procs"][0]["version"] == "abc"


async def test_everything_that_is_wrong_is_told_at_once(root: httpx.AsyncClient) -> None:
    wrong = {"id": "new", "pth": 1, "path": "relative", "max_attempts": "hunter2"}
    answer = await root.post(ALL, json=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_bundle"
    assert {one["path"] for one in answer.json()["errors"]} >= {"pth", "max_attempts"}
    assert "hunter2" not in answer.text
    for entry, field in (
        ({"path": "relative"}, "path"),
        ({"path": "/a", "id": "b"}, "id"),
        ({"git_url": "ext::sh -c x"}, "body"),
        ({"git_url": "https://git.test/a", "webhook_secret": "REDIS_URL"}, "webhook_secret"),
        ({"path": "/a", "webhook_secret": "X"}, "body"),
    ):
        answer = await root.put(ECHO, json=entry, headers={"If-Match": "*"})
        assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (400, "invalid_bundle", field)
    refused(await root.post(ALL, json={"id": "a b", "path": "/a"}), 400)
    refused(await root.post(ALL, json={"path": "/a"}), 400)
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        refused(await root.post(ALL, content=content), 400)
    refused(await root.post(ALL, content=b'{"a":"' + b"x" * 300_000 + b'"}'), 413)
    for path in (f"{ALL}/nobody", f"{ALL}/nobody/releases", f"{ECHO}/releases/99", f"{ECHO}/releases/x", f"{ALL}/a b"):
        refused(await root.get(path), 404)
    assert (await told(await root.get(ALL)))["sequence"] == 2


async def test_a_dry_run_stores_nothing(root: httpx.AsyncClient) -> None:
    valid = await told(await root.post(f"{ALL}/validate", json={"bundle_id": "echo", "patch": {"name": None}}))
    assert valid == {"valid": True, "entry": {"id": "echo", "path": "/bundles/echo"}, "fields": ["name"]}
    given = {"bundle_id": "new", "entry": {"repo": "https://git.test/a", "ref": "v1"}}
    valid = await told(await root.post(f"{ALL}/validate", json=given))
    assert valid["entry"] == {"id": "new", "git_url": "https://git.test/a", "git_ref": "v1"}
    invalid = await told(await root.post(f"{ALL}/validate", json={"bundle_id": "new", "entry": {}}))
    assert not invalid["valid"]
    refused(await root.post(f"{ALL}/validate", json={"bundle_id": "echo"}), 400)
    assert (await told(await root.get(ALL)))["sequence"] == 2


async def test_acts_and_attempts_are_in_the_audit_log(bench: Bench) -> None:
    root = await bench.client("root-token", address="192.0.2.9")
    await told(await root.patch(f"{ECHO}?reason=why", json={"config": {"key": "hunter2"}}), 202)
    await root.patch(ECHO, json={"max_attempts": "hunter2"})
    await root.delete(ECHO)
    items = (await told(await root.get("/admin/audit?limit=3")))["items"]
    assert [(item["act"], item["outcome"]) for item in items] == [
        ("bundle.remove", "refused"),
        ("bundle.update", "refused"),
        ("bundle.update", "done"),
    ]
    done = items[-1]
    assert (done["actor"], done["address"], done["subject"]) == ("root", "192.0.2.9", "echo release 2")
    assert (done["details"]["fields"], done["details"]["reason"]) == (["config"], "why")
    assert "hunter2" not in json.dumps(items)


# ---- pushes


def push(ref: str = "refs/heads/main", after: str = "c1", secret: str = SECRET, **more: Any) -> dict[str, Any]:
    """A signed request, as GitHub sends it."""
    content = json.dumps({"ref": ref, "after": after, **more}).encode()
    signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={signature}"}
    return {"content": content, "headers": headers}


HOOK = "/webhooks/bundles/git"


async def last(releases: Releases) -> Release:
    standing = await releases.standing("git")
    assert standing is not None
    return standing.last


async def test_a_push_wants_a_release_of_what_is_registered(bench: Bench, releases: Releases) -> None:
    github = await bench.client(address="192.0.2.30")
    wanted = await told(await github.post(HOOK, **push()), 202)
    assert wanted == {"status": "wanted", "release": 2}
    release = await last(releases)
    assert (release.origin, release.author, release.revision, release.reason) == (
        "webhook", "webhook", None, "push of c1",
    )  # fmt: skip
    assert release.entry == GIT
    root = await bench.client("root-token")
    (entry,) = (await told(await root.get("/admin/audit?act=bundle.webhook")))["items"]
    assert (entry["actor"], entry["address"]) == ("webhook", "192.0.2.30")


async def test_the_secret_of_pushes_may_be_a_reference(
    bench_with: BenchWith, releases: Releases, tmp_path: Path
) -> None:
    entry = {**GIT, "webhook_secret": "file:hooks#git"}
    wanted = await releases.want("git", entry=entry, origin="update", actor=Actor("root"))
    assert isinstance(wanted, Release)
    await releases.settle_ready(wanted, "c0")
    bench = await bench_with(KDCUBE_SECRETS_DIR=str(tmp_path))
    github = await bench.client()
    response = await github.post(HOOK, **push())
    refused(response, 503)
    assert "hooks" not in response.text and response.headers["retry-after"]
    (tmp_path / "hooks").write_text(json.dumps({"git": SECRET}))
    other = await (await bench_with(KDCUBE_SECRETS_DIR=str(tmp_path))).client()
    assert (await told(await other.post(HOOK, **push()), 202))["release"] == 3
    refused(await other.post(HOOK, **push(secret="hooks")), 403)


async def test_a_push_under_the_proxys_prefix_by_gitlabs_token(bench: Bench, releases: Releases) -> None:
    gitlab = await bench.client()
    headers = {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": SECRET}
    given = {"ref": "refs/heads/main", "after": "c1", "project": {"default_branch": "main"}}
    await told(await gitlab.post("/chatbot/api" + HOOK, json=given, headers=headers), 202)
    refused(await gitlab.post(HOOK, json=given, headers={**headers, "X-Gitlab-Token": "wrong"}), 403)


async def test_a_replay_changes_nothing(bench: Bench, releases: Releases) -> None:
    """Not even after a rollback, which it would undo."""
    github = await bench.client()
    first = push()
    await told(await github.post(HOOK, **first), 202)
    assert await told(await github.post(HOOK, **first)) == {"status": "known", "release": 2}
    await prepared(releases, revision="c1")
    root = await bench.client("root-token")
    await told(await root.post(f"{ALL}/git/rollback"), 202)
    await prepared(releases, revision="c0")
    assert await told(await github.post(HOOK, **first)) == {"status": "known", "release": 2}
    assert (await last(releases)).number == 3
    await told(await github.post(HOOK, **push(before="c0")), 202)  # pushed once more
    await prepared(releases, "the git server is away")
    assert (await told(await github.post(HOOK, **push(before="c0")), 202))["release"] == 5  # sent again by hand


async def test_only_pushes_to_what_is_served_count(bench: Bench, releases: Releases) -> None:
    github = await bench.client()
    for given in (
        push("refs/heads/other"),
        push("refs/tags/v1"),
        push(after="0" * 40),
        push(deleted=True),
        push(after="c0"),  # is served
    ):
        assert (await told(await github.post(HOOK, **given)))["status"] == "ignored"
    ping = push()
    ping["headers"]["X-GitHub-Event"] = "ping"
    assert (await told(await github.post(HOOK, **ping)))["status"] == "ignored"
    assert (await last(releases)).number == 1


async def test_what_is_not_proven_changes_nothing(bench: Bench, releases: Releases) -> None:
    stranger = await bench.client()
    good = push()
    for given in (
        push(secret="wrong"),
        {**good, "headers": {"X-GitHub-Event": "push"}},
        {**good, "content": good["content"] + b" "},
        {**good, "headers": {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256="}},
    ):
        refused(await stranger.post(HOOK, **given), 403, "invalid_signature")
    large = {**good, "content": good["content"] + b" " * (1 << 20)}
    refused(await stranger.post(HOOK, **large), 413)
    for path in ("/webhooks/bundles/echo", "/webhooks/bundles/nobody", "/webhooks/bundles/%2e"):
        refused(await stranger.post(path, **good), 404)
    no_push = push()
    no_push["content"] = b"payload=%7B%7D"
    no_push["headers"]["X-Hub-Signature-256"] = (
        "sha256=" + hmac.new(SECRET.encode(), no_push["content"], hashlib.sha256).hexdigest()
    )
    refused(await stranger.post(HOOK, **no_push), 400, "malformed_push")
    assert (await last(releases)).number == 1


async def test_many_pushes_are_bounded(bench: Bench, releases: Releases) -> None:
    github = await bench.client()
    answers = [(await github.post(HOOK, **push(after=f"c{n}"))).json()["status"] for n in range(1, MAX_WANTED + 3)]
    assert answers == ["wanted"] * MAX_WANTED + ["ignored"] * 2


async def test_a_secret_that_is_not_set_proves_nobody(bench_with: BenchWith, releases: Releases) -> None:
    github = await (await bench_with()).client()
    refused(await github.post(HOOK, **push(secret="")), 503, "webhook_not_ready")

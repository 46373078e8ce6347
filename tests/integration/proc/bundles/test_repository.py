"""Repositories on this disk, fetched from real servers: what is pinned, kept, refused and collected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.integration.proc.bundles.git_servers import Remote, git, http_server, ssh_server

from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.sources import repository as module
from kdcube.proc.bundles.sources.repository import Repository
from kdcube.proc.bundles.sources.source import SourceError

TOKEN = "t0ken-of-the-tests"


@pytest.fixture
def remote(tmp_path):
    return Remote.make(tmp_path)


@pytest.fixture
def local(tmp_path, remote):
    """Makes a repository in the store; by file unless another ``url`` is given."""

    def make(url: str = "", **settings) -> Repository:
        address = GitAddress.parse(url or f"file://{remote.bare}")
        return Repository(
            tmp_path / "store", address, GitSettings(allow_file=True, **settings), stopping=threading.Event()
        )

    return make


def files_of(repository: Repository, commit: str) -> dict[str, str]:
    folder, let_go = repository.hold(commit)
    try:
        return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}
    finally:
        let_go()


def test_refs_of_every_kind(remote, local):
    first = remote.commit({"a.py": "1"}, tag="v1")
    second = remote.commit({"a.py": "2"}, branch="side/way")
    third = remote.commit({"a.py": "3"})
    repository = local()
    wanted = {
        **{None: third, "HEAD": third, "main": third, "refs/heads/main": third, "v1": first, "refs/tags/v1": first},
        **{"side/way": second, first: first, first[:9]: first},
    }
    assert {ref: repository.fetch(ref) for ref in wanted} == wanted
    assert [files_of(repository, commit)["a.py"] for commit in (first, second, third)] == ["1", "2", "3"]
    with pytest.raises(SourceError, match="has no branch, tag or commit 'absent'"):
        repository.fetch("absent")
    git(remote.bare, "tag", "main", first)
    with pytest.raises(SourceError, match="is a branch and a tag: say refs/heads/main or refs/tags/main"):
        repository.fetch("main")


def test_a_branch_that_was_moved_back_is_followed_and_a_commit_without_a_branch_is_found(remote, local):
    first, second = remote.commit({"a": "1"}), remote.commit({"a": "2"})
    repository = local()
    assert repository.fetch("main") == second
    git(remote.bare, "update-ref", "refs/heads/main", first)
    assert repository.fetch("main") == first
    third = remote.commit({"a": "3"})
    git(remote.bare, "update-ref", "refs/heads/main", first)
    assert repository.fetch(third) == third


def test_a_commit_that_is_here_needs_no_server(remote, local):
    commit = remote.commit({"a": "1"})
    repository = local()
    repository.fetch(None)
    remote.bare.rename(remote.bare.with_name("gone"))
    assert repository.fetch(commit) == commit
    with pytest.raises(SourceError, match="does not appear to be a git repository"):
        repository.fetch("main")


def test_checkouts_hold_what_the_repository_holds_and_cannot_be_written(remote, local):
    program = remote.work / "run.sh"
    remote.work.joinpath(".gitattributes").write_text("*.txt eol=crlf export-ignore filter=evil\n")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (remote.work / "link").symlink_to("deep/er/file.txt")
    commit = remote.commit({"deep/er/file.txt": "as it is\n", "ü.txt": "$Id$"})
    repository = local()
    folder, let_go = repository.hold(repository.fetch(commit))
    assert (folder / "deep/er/file.txt").read_bytes() == b"as it is\n"
    assert ((folder / "link").read_text(), (folder / "ü.txt").read_text()) == ("as it is\n", "$Id$")
    assert oct((folder / "run.sh").stat().st_mode & 0o777) == "0o555"
    assert oct((folder / "deep/er/file.txt").stat().st_mode & 0o777) == "0o444"
    assert oct((folder / "deep").stat().st_mode & 0o777) == "0o555"
    assert not list(folder.rglob(".git"))
    let_go()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "up/up/..", "deep/../../.."])
def test_links_that_lead_out_are_refused(remote, local, target):
    (remote.work / "deep").mkdir()
    (remote.work / "up").symlink_to(".")
    (remote.work / "out").symlink_to(target)
    remote.commit({"deep/a": "1"})
    with pytest.raises(SourceError, match="the link 'out' leads out of the repository"):
        local().fetch(None)


def test_submodules_and_lfs_are_refused(remote, local):
    commit = remote.commit({"a": "1"})
    git(remote.work, "update-index", "--add", "--cacheinfo", f"160000,{commit},vendor/lib")
    git(remote.work, "commit", "-q", "-m", "submodule")
    git(remote.work, "push", "-q", str(remote.bare), "HEAD:refs/heads/main")
    with pytest.raises(SourceError, match="'vendor/lib' is a git submodule, which is not fetched"):
        local().fetch(None)
    git(remote.work, "reset", "-q", "--hard", commit)
    remote.commit({"big.bin": f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"})
    with pytest.raises(SourceError, match=r"'big\.bin' is in Git LFS, which is not fetched"):
        local().fetch(None)


@pytest.mark.parametrize("name", [".git", "..", ".GIT"])
def test_names_that_are_none_are_refused(remote, local, name):
    commit = remote.commit({"a": "1"})
    blob = git(remote.work, "rev-parse", f"{commit}:a")
    inner = bytes.fromhex(blob)
    raw = f"100644 {name}".encode() + b"\0" + inner
    tree = subprocess.run(
        ["git", "-C", remote.bare, "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        input=raw, capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    made = git(remote.bare, "commit-tree", tree, "-m", "bad", GIT_CONFIG_NOSYSTEM="1")
    git(remote.bare, "update-ref", "refs/heads/main", made)
    with pytest.raises(SourceError, match="is no name for a file of a bundle"):
        local().fetch(None)


def test_size_and_number_of_files_are_bounded(remote, local):
    remote.commit({"a": "x" * 1000, "b": "y"})
    with pytest.raises(SourceError, match="has more than 1 files"):
        local(max_files=1).fetch(None)
    with pytest.raises(SourceError, match=r"larger than 500 bytes \(KDCUBE_GIT_MAX_BYTES\)"):
        local(max_bytes=500).fetch(None)


def test_nothing_of_the_repository_or_the_user_is_run(remote, local, tmp_path, monkeypatch):
    touched = tmp_path / "touched"
    (tmp_path / ".gitconfig").write_text(f"[core]\n\tfsmonitor = touch {touched}\n\tsshCommand = touch {touched}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {touched}")
    hook = remote.bare / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {touched}\n")
    hook.chmod(0o755)
    remote.commit({"a": "1"})
    local().fetch(None)
    assert not touched.exists()


def test_old_checkouts_are_collected_and_never_one_that_is_held(remote, local):
    repository = local()
    commits = []
    for number in range(module.KEPT_COMMITS + 4):
        commits.append(remote.commit({"a": str(number)}))
        repository.fetch(None)
        os.utime(repository._checkout(commits[-1]), (number, number))
        if number == 0:
            held = repository.hold(commits[0])
    kept = [number for number, commit in enumerate(commits) if repository._checkout(commit).is_dir()]
    assert kept == [0, 4, 5, 6, 7]
    held[1]()
    commits.append(remote.commit({"a": "last"}))
    repository.fetch(None)
    assert not repository._checkout(commits[0]).is_dir()
    assert repository.hold(commits[0]) is None
    remote.bare.rename(remote.bare.with_name("gone"))
    assert files_of(repository, repository.fetch(commits[0])) == {"a": "0"}


def test_over_http_with_a_token_that_nobody_sees(remote, local, tmp_path):
    commit = remote.commit({"a": "1"})
    with http_server(remote.bare.parent, token=TOKEN) as server:
        with pytest.raises(SourceError, match="could not read Username") as refused:
            local(server.url).fetch(None)
        with pytest.raises(SourceError, match="Authentication failed") as wrong:
            local(server.url, http_token=SecretStr("wr0ng-token")).fetch(None)
        repository = local(server.url, http_token=SecretStr(TOKEN))
        assert repository.fetch("main") == commit
        assert not any(TOKEN in path for path in server.requests)
    assert "wr0ng" not in str(wrong.value) and "wr0ng" not in str(refused.value)
    for file in (tmp_path / "store").rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()
    assert TOKEN not in repr(GitSettings(http_token=SecretStr(TOKEN)))


def test_the_token_goes_to_no_other_server(remote, local):
    remote.commit({"a": "1"})
    with http_server(remote.bare.parent, token=TOKEN) as ours, http_server(remote.bare.parent) as other:
        repository = local(ours.url, http_token=SecretStr(TOKEN))
        repository.fetch(None)
        other.token = "something else"
        repository._git._address = GitAddress(other.url, repository.address.transport, repository.address.origin)
        repository.address = repository._git._address
        with pytest.raises(SourceError, match="could not read Username"):
            repository.fetch("main")
        assert not other.presented


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_to_another_server_does_not_carry_the_token(remote, local, host, signed_in):
    remote.commit({"a": "1"})
    with http_server(remote.bare.parent) as ours, http_server(remote.bare.parent, token=TOKEN) as other:
        ours.token = TOKEN if signed_in else ""
        ours.redirect = f"http://{host}:{other.port}"
        with pytest.raises(SourceError, match="git on http"):
            local(ours.url, http_token=SecretStr(TOKEN)).fetch("main")
        assert bool(ours.presented) == signed_in
        assert other.requests and not other.presented


def test_the_token_is_in_no_arguments(remote, local):
    remote.commit({"a": "1"})
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                seen.add(place.read_bytes())

    def watch() -> None:  # also the helper, which is there for a moment
        while not stop.is_set():
            look()

    with http_server(remote.bare.parent, token=TOKEN) as server:
        server.on_request = look  # while git waits for this answer
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            local(server.url, http_token=SecretStr(TOKEN)).fetch(None)
        finally:
            stop.set()
            watching.join()
        assert any(TOKEN in given for given in server.presented)
    assert any(b"fetch" in line and server.url.encode() in line for line in seen)
    assert not [line for line in seen if TOKEN.encode() in line]


def test_over_ssh_with_strict_host_keys(remote, local, tmp_path):
    commit = remote.commit({"a": "1"})
    with ssh_server(tmp_path / "ssh keys") as server:
        url = server.url(remote.bare)
        keys = {"ssh_key": server.key, "ssh_known_hosts": server.known_hosts}
        assert local(url, **keys).fetch("main") == commit
        with pytest.raises(SourceError, match="Permission denied"):
            local(url, **{**keys, "ssh_key": server.folder / "stranger"}).fetch("main")
        stranger = (server.folder / "stranger.pub").read_text()
        server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {stranger}")
        with pytest.raises(SourceError, match="Host key verification failed"):
            local(url, **keys).fetch("main")
        server.known_hosts.write_text("")
        with pytest.raises(SourceError, match="Host key verification failed"):
            local(url, **keys).fetch("main")


def test_a_server_that_does_not_answer_is_left_in_time(remote, local):
    remote.commit({"a": "1"})
    with http_server(remote.bare.parent) as server:
        server.away.set()
        with pytest.raises(SourceError, match=r"takes longer than 1 s .*KDCUBE_GIT_TIMEOUT_SEC"):
            local(server.url, timeout_s=1).fetch(None)


WRITER = """
import sys, threading
from pathlib import Path
from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.sources.repository import Repository
from kdcube.telemetry import failpoints
failpoints.install(sys.argv[3])
address = GitAddress.parse(sys.argv[2])
store = Repository(Path(sys.argv[1]), address, GitSettings(allow_file=True), stopping=threading.Event())
print(store.fetch(None))
"""


@pytest.mark.parametrize("step", ["proc.git.fetched", "proc.git.written"])
def test_a_writer_that_is_killed_leaves_nothing_half_done(remote, local, tmp_path, step):
    commit = remote.commit({"a": "1"})
    arguments = [sys.executable, "-c", WRITER, tmp_path / "store", f"file://{remote.bare}", f"{step}=crash"]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == -signal.SIGKILL
    repository = local()
    assert repository.hold(commit) is None
    (repository._mirror / "packed-refs.lock").touch()  # as a killed git leaves it
    assert repository.fetch(None) == commit
    assert files_of(repository, commit) == {"a": "1"}
    assert [entry.name for entry in repository._commits.iterdir()] == [commit]


def test_a_checkout_is_on_the_disk_before_it_has_its_name(remote, local, monkeypatch):
    commit = remote.commit({"deep/a": "1", "b": "2"})
    repository = local()
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), repository._checkout(commit).exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    repository.fetch(None)
    hidden = repository._commits / f".{commit}"
    before = {name.removeprefix(str(hidden))[9:] for name, named in synced if not named}
    assert before == {"", "/b", "/deep", "/deep/a"}
    assert [name for name, named in synced if named] == [str(repository._commits)]


def test_one_writer_at_a_time(remote, local, tmp_path):
    commit = remote.commit({"a": "1"})
    go = tmp_path / "go"
    arguments = [sys.executable, "-c", WRITER, tmp_path / "store", f"file://{remote.bare}"]
    with subprocess.Popen([*arguments, f"proc.git.written=pause({go})"], stdout=subprocess.PIPE) as writer:
        while not go.with_name("go.reached").exists() and writer.poll() is None:
            threading.Event().wait(0.02)
        with pytest.raises(SourceError, match="another process keeps on writing"):
            local(timeout_s=0.3).fetch(None)
        go.touch()
        assert writer.communicate()[0].decode().split()[-1] == commit
    assert local().fetch(None) == commit


def test_a_folder_that_cannot_be_written_is_told(remote, local, tmp_path):
    remote.commit({"a": "1"})
    (tmp_path / "store").write_text("no folder")
    with pytest.raises((SourceError, OSError)):
        local().fetch(None)

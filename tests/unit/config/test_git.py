from __future__ import annotations

import pytest

from kdcube.config.environment import Environment
from kdcube.config.git import GitAddress, GitSettings, GitTransport, check_git_ref, check_git_subdir
from kdcube.protocol.errors import ConfigurationError

HTTPS = GitAddress.parse("https://git.example.org/a/b.git")
SSH = GitAddress.parse("git@git.example.org:a/b.git")


def read(*addresses, **variables):
    return GitSettings.read(Environment(variables), addresses)


@pytest.mark.parametrize(
    ("url", "transport", "origin"),
    [
        ("https://git.example.org/a/b", GitTransport.HTTPS, "https://git.example.org"),
        ("https://git.example.org:8443/a", GitTransport.HTTPS, "https://git.example.org:8443"),
        ("http://127.0.0.1:80/a", GitTransport.HTTP, "http://127.0.0.1:80"),
        ("http://localhost/a", GitTransport.HTTP, "http://localhost"),
        ("http://[::1]:80/a", GitTransport.HTTP, "http://[::1]:80"),
        ("ssh://git@git.example.org:2222/a", GitTransport.SSH, ""),
        ("git@git.example.org:a/b.git", GitTransport.SSH, ""),
        ("file:///srv/a.git", GitTransport.FILE, ""),
    ],
)
def test_addresses(url, transport, origin):
    assert GitAddress.parse(url) == GitAddress(url, transport, origin)


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c touch% /tmp/x", "ext::touch", "fd::17", "git://git.example.org/a", "ftp://h/a", "/srv/a", "../a"),
        *("https://hunter2@git.example.org/a", "https://u:hunter2@git.example.org/a", "ssh://u:hunter2@h/a"),
        *("http://git.example.org/a", "https://git.example.org", "https://h/a?token=hunter2", "https://h/a#x"),
        *("https:///a", "https://h:x/a", "https://-h/a", "ssh://-oProxyCommand=x/a", "-oProxyCommand=x@h:a", "u@-h:a"),
        *("ssh://-u@h/a", "file://h/a", "https://h/a b", "https://h/a\nb", "--upload-pack=x", "https://@h/a", ""),
    ],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ValueError, match=r"^git_url ") as told:
        GitAddress.parse(url)
    assert "hunter2" not in str(told.value)


def test_refs_and_folders():
    for ref in ("main", "v1.2.0", "refs/heads/a", "feature/a-b", "0123abc", "a@b", "#12"):
        (check_git_ref if ref != "#12" else str)(ref)
    for ref in ("-x", "a..b", "a b", "a:b", "a^", "a~1", "@{u}", "a@{1}", "a/", "a.lock", "", "a//b", "a\\b", "*"):
        with pytest.raises(ValueError, match="git_ref"):
            check_git_ref(ref)
    for subdir in ("a", "a/b", "./a"):
        check_git_subdir(subdir)
    for subdir in ("/a", "../a", "a/../../b", "a/.git", " "):
        with pytest.raises(ValueError, match="git_subdir"):
            check_git_subdir(subdir)


def test_settings(tmp_path):
    key, known = tmp_path / "key", tmp_path / "known"
    key.touch()
    known.touch()
    given = read(
        *(HTTPS, SSH),
        **{"GIT_SSH_KEY_PATH": str(key), "GIT_SSH_KNOWN_HOSTS": str(known), "GIT_HTTP_TOKEN": "hunter2"},
        **{"https_proxy": "http://proxy:3128", "KDCUBE_GIT_TIMEOUT_SEC": "5"},
    )
    assert (given.ssh_key, given.ssh_known_hosts, given.timeout_s) == (key, known, 5)
    assert given.network == {"https_proxy": "http://proxy:3128"}
    assert "hunter2" not in repr(given) and "proxy" not in repr(given)


@pytest.mark.parametrize(
    ("address", "variables", "told"),
    [
        (SSH, {}, "GIT_SSH_KEY_PATH: is not set; git@git.example.org:a/b.git needs the file of a private key"),
        (SSH, {"GIT_SSH_KEY_PATH": __file__}, "GIT_SSH_KNOWN_HOSTS: is not set"),
        (HTTPS, {"GIT_SSH_KEY_PATH": "/absent"}, "GIT_SSH_KEY_PATH: is /absent, which is no file"),
        (HTTPS, {"GIT_HTTP_TOKEN": "hunter2\n"}, "GIT_HTTP_TOKEN: holds a blank"),
        (HTTPS, {"GIT_HTTP_USER": "a b"}, "GIT_HTTP_USER: is 'a b'"),
        (GitAddress.parse("file:///a"), {}, "KDCUBE_GIT_ALLOW_FILE: is not 1"),
    ],
)
def test_settings_that_do_not_fit(address, variables, told):
    with pytest.raises(ConfigurationError, match=f"^{told}") as error:
        read(address, **variables)
    assert "hunter2" not in str(error.value)

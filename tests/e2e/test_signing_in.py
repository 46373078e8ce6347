"""A person signs in through a real provider in a real browser, is refreshed, signs out, and is signed out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.e2e.conftest import Stack
from tests.openid.provider import OpenIdProvider

PAGE = Path(__file__).with_name("signing_in_page.html").read_text()
ARGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(ARGS))
        yield browser
        browser.close()


class Person:
    """Somebody with a browser, on the site at ``site``, who signs in at ``login``."""

    def __init__(self, browser: Browser, site: str, login: str, folder: Path) -> None:
        self.context = browser.new_context(ignore_https_errors=True)
        self.context.set_default_timeout(PATIENCE_MS)
        body = PAGE.replace("LOGIN", "" if site == login else login)
        pages = re.compile(re.escape(site) + r"/(c/.*)?$")
        self.context.route(pages, lambda route: route.fulfill(body=body, content_type="text/html"))
        self.site = site
        self.page: Page = self.context.new_page()
        self.urls: list[str] = []
        self.page.on("request", lambda request: self.urls.append(request.url))
        self._folder = folder
        self._shots = 0

    def shows(self, where: str, what: str | re.Pattern[str]) -> None:
        expect(self.page.locator(f"#{where}")).to_have_text(what, timeout=PATIENCE_MS)

    def holds(self, where: str, what: str) -> None:
        expect(self.page.locator(f"#{where}")).to_contain_text(what, timeout=PATIENCE_MS)

    def says(self, text: str, deltas: int = 0) -> None:
        self.shows("stream", "open")
        self.page.fill("#text", text)
        self.page.fill("#deltas", str(deltas))
        self.page.click("#send")

    def signs_in(self, name: str) -> None:
        self.page.click("#in")
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", f"{name}-password")
        self.picture("at the provider")
        self.page.click("button:not([name])")
        self.comes_back()
        self.shows("who", re.compile("registered"))

    def comes_back(self) -> None:
        """To the site, from the provider. There is no page of its own yet: this one only shows what is opened anew."""
        self.page.wait_for_url(f"{self.site}/**", timeout=PATIENCE_MS)
        self.page.goto(self.page.url)

    def picture(self, name: str) -> None:
        self._shots += 1
        self.page.screenshot(path=self._folder / f"{self._shots}-{name.replace(' ', '-')}.png")

    def cookie(self, name: str) -> dict | None:
        return next((dict(each) for each in self.context.cookies() if each["name"] == name), None)


def stack_with(folder: Path, provider: OpenIdProvider, *args: str, **variables: str) -> tuple[Stack, str, str]:
    """A system whose users sign in at ``provider``; its site, and where they sign in."""
    stack = Stack(folder, {"AUTH_PROVIDER": "oidc", **variables})
    scheme = "https" if variables.get("KDCUBE_PROXY_TLS") else "http"
    proxy = "--proxy" in args
    login = f"{scheme}://127.0.0.1:{stack.port + (70 if proxy else 20)}"
    site = login if proxy else f"http://127.0.0.1:{stack.port}"
    client = provider.client(
        f"{login}/auth/callback",
        post_logout_redirect_uris=[f"{site}/"],
        backchannel_logout_uri=f"http://127.0.0.1:{stack.port + 20}/auth/backchannel-logout",
    )
    stack.tell(
        OIDC_ISSUER=provider.issuer,
        OIDC_CLIENT_ID=client.client_id,
        OIDC_CLIENT_SECRET=client.client_secret or "",
        OIDC_AUDIENCE=provider.audience,
        OIDC_SCOPES="openid profile email groups",
    )
    stack.up(args)
    return stack, site, login


def leave_provider(page: Page, provider: OpenIdProvider) -> None:
    """As on the provider's own pages: out of everything."""
    page.goto(f"{provider.issuer}/session/end")
    page.click("button[name=logout]")
    page.wait_for_load_state()


def test_in_a_browser(chromium: Browser, openid_provider: OpenIdProvider, tmp_path: Path) -> None:
    stack, site, login = stack_with(tmp_path, openid_provider)
    try:
        person = Person(chromium, site, login, tmp_path)
        page = person.page
        page.goto(f"{site}/c/123?tab=files")
        person.shows("who", re.compile("anonymous"))
        person.says("before I signed in")
        person.holds("log", "before I signed in[done]")
        person.picture("anonymous")

        with openid_provider.lifetimes(AccessToken=6):
            openid_provider.requests()
            person.signs_in("alice")
            assert page.url == f"{site}/c/123?tab=files"  # where they were
            person.shows("titles", "before I signed in")  # what they said came along
            person.says("hello", deltas=300)
            person.holds("log", "0 1 2")
            person.picture("signed in")
            tokens = 0
            for _ in stack.attempts("the login is refreshed"):
                tokens += openid_provider.requests().get("/token", 0)
                if tokens >= 2:
                    break
            assert "[done]" not in (page.text_content("#log") or "")  # the stream is still open
            person.holds("log", "[done]")
            person.shows("stream", "open")
            person.picture("refreshed")

        cookie = person.cookie("kdcube_login")
        assert cookie is not None and cookie["httpOnly"] and cookie["sameSite"] == "Lax" and cookie["path"] == "/"
        assert "kdcube_login" not in page.evaluate("document.cookie")
        page.click("#out button")
        page.click("button[name=logout]")  # at the provider, which asks
        person.comes_back()
        person.shows("who", re.compile("anonymous"))
        assert person.cookie("kdcube_login") is None
        person.picture("signed out")
        stolen = httpx.get(f"{site}/chatbot/api/profile", cookies={"kdcube_login": str(cookie["value"])})
        assert (stolen.status_code, stolen.json()["error"]) == (401, "login_over")

        page.goto(f"{site}/c/123?tab=files")
        person.signs_in("alice")  # the provider asks for the password again
        leave_provider(person.context.new_page(), openid_provider)
        person.says("still here?")
        person.shows("who", "401 login_over")
        person.shows("stream", "lost")  # what was opened before is cut, and not opened again
        person.picture("signed out by the provider")

        tokens_in = [url for url in person.urls if "eyJ" in url and "/session/end" not in url]
        assert tokens_in == []
        logs = "".join(log.read_text() for log in stack.home.glob("logs/*.log"))
        assert "eyJ" not in logs and str(cookie["value"]) not in logs
        assert "proxylogin" in [each["name"] for each in services(stack)]
        assert "login.opened" in stack.kdcube("logs", "proxylogin").stdout
    finally:
        person.context.close()
        stack.down()


def services(stack: Stack) -> list[dict]:
    found = json.loads(stack.kdcube("status", "--json").stdout)["services"]
    assert all(each["ready"] for each in found)
    return found


def test_behind_the_proxy_with_tls(chromium: Browser, openid_provider: OpenIdProvider, tmp_path: Path) -> None:
    stack, site, login = stack_with(tmp_path, openid_provider, "--proxy", KDCUBE_PROXY_TLS="self-signed")
    try:
        person = Person(chromium, site, login, tmp_path)
        person.page.goto(f"{site}/c/123?tab=files")
        person.shows("who", re.compile("anonymous"))
        person.signs_in("bob")
        assert urlsplit(person.page.url).path == "/c/123"
        cookie = person.cookie("__Host-kdcube_login")
        assert cookie is not None and cookie["secure"] and cookie["httpOnly"]
        person.says("through the proxy")
        person.holds("log", "through the proxy[done]")
        person.picture("behind the proxy")
        plain = httpx.get(f"{site}/chatbot/api/profile", cookies={"kdcube_login": str(cookie["value"])}, verify=False)
        assert plain.json()["user_type"] == "anonymous"  # a name that another host could have planted
        person.page.click("#out button")
        person.page.click("button[name=logout]")
        person.comes_back()
        person.shows("who", re.compile("anonymous"))
    finally:
        person.context.close()
        stack.down()

"""A person at a browser: Debian's Chromium, without a window, with an authenticator that Chromium plays.

    async with Chromium() as chromium, chromium.person(stage) as alice:
        await alice.enrol("alice")
        await alice.sign_in("/approvals")

The authenticator is that of the Chrome DevTools Protocol (domain WebAuthn): CTAP2, discoverable, user
verification done.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    CDPSession,
    Page,
    Playwright,
    Response,
    async_playwright,
)
from tests.fakes.stage import Stage

from stepwrit_broker.core.persons import Identity
from stepwrit_broker.edge.pages.session import How, Sessions

WAIT_MS = 30_000  # for a busy machine: nothing here is timed
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


class Chromium:
    """One browser for many persons; what they share is nothing."""

    def __init__(self) -> None:
        self._playwright: Playwright
        self._browser: Browser

    async def __aenter__(self) -> Self:
        program = shutil.which("chromium")
        if program is None:
            pytest.fail("chromium is missing: apt-get install chromium")
        self._playwright = await async_playwright().start()
        # a root without user namespaces has no sandbox; what is visited here is ours alone
        self._browser = await self._playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._browser.close()
        await self._playwright.stop()

    @asynccontextmanager
    async def person(self, stage: Stage, **how: Any) -> AsyncGenerator[Person]:
        """Somebody with a browser profile and a device of their own. how: as Playwright's `new_context`."""
        context = await self._browser.new_context(ignore_https_errors=True, **how)
        context.set_default_timeout(WAIT_MS)
        try:
            yield await Person(stage, context).begin()
        finally:
            await context.close()


class Person:
    """A page, its console, and the device in the person's hand."""

    def __init__(self, stage: Stage, context: BrowserContext) -> None:
        self.stage, self.context = stage, context
        self.page: Page
        self.cdp: CDPSession
        self.device = ""
        self.wrong: list[str] = []

    async def begin(self) -> Self:
        self.page = await self.context.new_page()
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.cdp = await self.context.new_cdp_session(self.page)
        await self.cdp.send("WebAuthn.enable")
        made = await self.cdp.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        self.device = made["authenticatorId"]
        return self

    def url(self, path: str) -> str:
        return self.stage.issuer_url + path

    async def goto(self, path: str) -> None:
        await self.page.goto(self.url(path))

    async def propose(self, name: str) -> str:
        """Open an invitation for `name` and make a passkey; the fingerprint that is shown."""
        self.stage.pass_time(10)  # persons come one after the other: their address is not slowed down
        body = {"person": name, "reason": "a test"}
        made = (await self.stage.admin("POST", "/v1/admin/authenticators/invitations", body)).ok()
        await self.page.goto(made["url"])
        await self.page.get_by_role("button", name="Make the passkey").click()
        await self.page.get_by_role("heading", name="Your passkey is proposed").wait_for()
        return (await self.page.locator(".print").inner_text()).strip()

    async def enrol(self, name: str) -> None:
        """… and have an operator approve it by the fingerprint."""
        shown = await self.propose(name)
        found = (await self.stage.admin("GET", "/v1/admin/authenticators")).ok()[""]
        made = next(each for each in found if each["fingerprint"] == shown)
        body = {"reason": "heard it", "fingerprint": shown}
        (await self.stage.admin("POST", f"/v1/admin/authenticators/{made['id']}/approve", body)).ok()

    async def sign_in(self, path: str = "/approvals") -> None:
        """Open a page and sign in where it asks."""
        await self.goto(path)
        await self.page.get_by_role("button", name="Sign in with a passkey").click()
        await self.page.wait_for_url(self.url(path))

    async def open(self, name: str) -> None:
        """An approval's page."""
        await self.goto(f"/approvals/{name}")

    async def press(self, name: str) -> None:
        """Press a button and wait for the page that follows."""
        async with self.page.expect_navigation():
            await self.page.get_by_role("button", name=name, exact=True).click()

    async def answer(self, name: str) -> Response:
        """Press a button; what the form's POST was answered."""
        async with self.page.expect_navigation() as went:
            await self.page.get_by_role("button", name=name, exact=True).click()
        last = await went.value
        sent = last.request.redirected_from
        posted = last if sent is None else await sent.response()
        assert posted is not None
        return posted

    async def heading(self) -> str:
        return await self.page.get_by_role("heading", level=1).inner_text()

    async def outcome(self) -> str:
        """What the page says first of how it stands."""
        return await self.page.locator(".notice").first.inner_text()

    async def let_in(self, name: str, how: How = "oidc") -> None:
        """Signed in without a browser's script: the cookie that another way of signing in would set."""
        house = self.stage.broker.house
        header = Sessions(house).signed_in(Identity(self.stage.issuer.url, name), how, house.clock.now())[1]
        cookie, _, value = header.decode().partition(";")[0].partition("=")
        strict = {"secure": True, "httpOnly": True, "sameSite": "Strict"}
        await self.context.add_cookies([{"name": cookie, "value": value, "url": self.url("/"), **strict}])  # type: ignore[list-item]

    async def credentials(self) -> list[dict[str, Any]]:
        """What is on the device, private keys and all."""
        got = await self.cdp.send("WebAuthn.getCredentials", {"authenticatorId": self.device})
        found: list[dict[str, Any]] = got["credentials"]
        return found

    async def hold(self, credentials: list[dict[str, Any]]) -> None:
        """Put them on this device too."""
        for each in credentials:
            await self.cdp.send(
                "WebAuthn.addCredential", {"authenticatorId": self.device, "credential": each}
            )

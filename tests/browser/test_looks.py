"""How the pages look and work for eyes, keyboards and screen readers: light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.browser.person import Chromium, Person
from tests.fakes.approver import ApprovalStage

FREEZE = "Deny and freeze this transaction"
UNKNOWN = "/approvals/apr_100AAAAAAAAAAAAAAAAAAAAAAAAAA"
LONG = {"path": "/srv/" + "x" * 300, "to": "bob@example.com", "amount": 12_500, "note": "two\nlines"}
AA = 4.5  # WCAG 2.2, 1.4.3; for large and bold text 3 would do
CONTRAST = Path(__file__).with_name("contrast.js").read_text()


class Tour:
    """Somebody with a page in every state before them."""

    def __init__(self, stage: ApprovalStage, alice: Person) -> None:
        self.stage, self.alice = stage, alice
        self.paths: list[str] = []

    async def prepare(self) -> Tour:
        alice, stage = self.alice, self.stage
        asks: dict[str, Any] = {name: await stage.asked(args={"n": name}) for name in ("Deny", FREEZE)}
        waits, both = await stage.asked(args=LONG), await stage.asked("both", {"n": "1"})
        asks["Approve with passkey"] = both
        for name, news in asks.items():
            await alice.open(news["id"])
            await alice.press(name)
        shown = [f"/approvals/{each['id']}" for each in (waits, *asks.values())]
        self.paths = [*shown, UNKNOWN, "/approvals", "/authenticators", "/authenticators/new"]
        return self


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tour(stage: ApprovalStage, chromium: Chromium) -> AsyncGenerator[Tour]:
    async with chromium.person(stage) as alice:
        await alice.enrol("alice")
        await alice.sign_in()
        yield await Tour(stage, alice).prepare()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(tour: Tour, scheme: Any) -> None:
    page = tour.alice.page
    await page.emulate_media(color_scheme=scheme)
    for path in tour.paths:
        await tour.alice.goto(path)
        found = await page.evaluate(CONTRAST)
        assert len(found) > 5, path
        assert [each for each in found if each[0] < AA] == [], path
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").partition(",")[0])
    assert (red < 60) == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 390, 1100])
async def test_no_page_is_wider_than_the_window(tour: Tour, width: int) -> None:
    await tour.alice.page.set_viewport_size({"width": width, "height": 800})
    for path in tour.paths:
        await tour.alice.goto(path)
        wide = await tour.alice.page.evaluate("document.scrollingElement.scrollWidth")
        assert wide <= width, path


async def test_on_a_phone_what_is_pressed_is_large_enough(stage: ApprovalStage, alice: Person) -> None:
    """WCAG 2.2, 2.5.5: 44 by 44 pixels for what decides."""
    news = await stage.asked()
    await alice.page.set_viewport_size({"width": 390, "height": 844})
    await alice.open(news["id"])
    for name in ("Approve with passkey", "Deny", "Deny and freeze this transaction"):
        box = await alice.page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["width"] >= 44


async def test_the_parts_of_a_page_have_names(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked(args=LONG)
    await alice.open(news["id"])
    page = alice.page
    for role in ("banner", "main", "contentinfo"):
        assert await page.get_by_role(role).count() == 1, role
    assert await page.get_by_role("navigation", name="Pages").count() == 1
    assert await page.get_by_role("heading", level=1).count() == 1
    for region in ("What you sign", "Your decision", "Signatures", "Where it comes from"):
        assert await page.get_by_role("region", name=region).count() == 1, region
    assert await page.get_by_role("list", name="Arguments").get_by_role("listitem").count() == 4
    assert await page.get_by_role("textbox", name="Reason for denying").count() == 1
    freeze = page.get_by_role("button", name="Deny and freeze this transaction")
    described = await freeze.get_attribute("aria-describedby")
    assert "until an operator lifts it" in await page.locator(f"#{described}").inner_text()
    assert await page.evaluate("document.documentElement.lang") == "en"
    levels = await page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))"
    )
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels


async def test_everything_is_reached_by_the_keyboard_in_the_order_of_the_page(
    stage: ApprovalStage, alice: Person
) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    seen = []
    for _ in range(11):
        await alice.page.keyboard.press("Tab")
        seen.append(
            await alice.page.evaluate(
                "document.activeElement.innerText?.trim() || document.activeElement.name || ''"
            )
        )
    assert seen == [
        "Skip to content", "Stepwrit", "Approvals", "My passkeys", "Sign out", "All approvals",
        "Approve with passkey", "Approve by signing in with the development issuer",
        "reason", "Deny", FREEZE,
    ]  # fmt: skip
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    await alice.page.get_by_role("button", name="Approve with passkey").focus()
    await alice.page.keyboard.press("Tab")
    assert await alice.page.evaluate(outline) == "solid", "where one is can be seen"
    await alice.page.get_by_role("button", name="Approve with passkey").focus()
    async with alice.page.expect_navigation():
        await alice.page.keyboard.press("Enter")
    assert "Approved" in await alice.outcome()


async def test_what_happened_is_said_first(stage: ApprovalStage, alice: Person) -> None:
    """A status that has the focus, and the title: a screen reader begins with both."""
    news = await stage.asked()
    await alice.open(news["id"])
    assert "ledger/wipe" in await alice.page.title()
    await alice.press("Approve with passkey")
    assert (await alice.page.title()).startswith("Approved: ledger/wipe")
    focus = await alice.page.evaluate("document.activeElement.getAttribute('role')")
    assert focus == "status"
    await alice.goto(UNKNOWN)
    assert await alice.page.evaluate("document.activeElement.getAttribute('role')") == "alert"


async def test_the_time_that_is_left_runs_as_text(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    time = alice.page.locator("time[data-left]").first
    assert "minutes" in await time.inner_text()
    await alice.page.clock.install()
    await alice.open(news["id"])
    await alice.page.clock.fast_forward(news["expires_in"] * 1000)
    assert await time.inner_text() == "no time: it has expired"


async def test_without_a_script_and_without_styles_it_is_still_a_page(
    stage: ApprovalStage, chromium: Chromium
) -> None:
    news = await stage.asked(args=LONG)
    async with chromium.person(stage, java_script_enabled=False) as alice:
        await alice.let_in("alice")
        await alice.page.route("**/*.css", lambda route: route.abort())
        await alice.open(news["id"])
        text = await alice.page.inner_text("body")
    order = ["Allow ledger/wipe", "What you sign", "Argument /amount", "Your decision", "Deny", "Signatures"]
    places = [text.index(each) for each in order]
    assert places == sorted(places)

"""Signing in, and signing, at an identity provider, in Debian's Chromium: with and without JavaScript."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from tests.browser.person import Chromium, Person
from tests.cli.conftest import free_port
from tests.fakes.approver import ApprovalStage
from tests.fakes.visitor import on_time

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]
LABEL = "the development issuer"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage(issuer=f"https://localhost:{free_port()}") as made:
        on_time(made)
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncGenerator[Chromium]:
    async with Chromium() as made:
        yield made


async def at_the_issuer(person: Person, name: str, button: str = "Sign in") -> None:
    """The person says who they are, or refuses."""
    await person.page.get_by_role("heading", name="Who would you like to be?").wait_for()
    await person.page.get_by_label("Name").fill(name)
    await person.page.get_by_role("button", name=button, exact=True).click()


async def sign_in(person: Person, path: str, name: str = "alice") -> None:
    await person.goto(path)
    await person.page.get_by_role("link", name=f"Sign in with {LABEL}").click()
    await at_the_issuer(person, name)
    await person.page.wait_for_url(person.url(path))
    await person.page.get_by_role("button", name="Sign out").wait_for()  # not the page that leads to it


async def to_the_issuer(person: Person) -> None:
    await person.page.get_by_role("button", name=f"Approve by signing in with {LABEL}").click()


async def state(stage: ApprovalStage, news: dict[str, Any]) -> str:
    record = await stage.broker.house.approvals.approval(news["id"])
    assert record is not None
    return record.state


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
async def test_a_person_without_a_passkey_signs_in_reads_and_signs(
    stage: ApprovalStage, chromium: Chromium, script: bool
) -> None:
    news = await stage.asked(args={"n": str(script)})
    path = f"/approvals/{news['id']}"
    async with chromium.person(stage, java_script_enabled=script) as alice:
        await sign_in(alice, path)
        assert await alice.heading() == "Allow ledger/wipe once, of high impact."
        await to_the_issuer(alice)
        await at_the_issuer(alice, "alice")
        await alice.page.wait_for_url(alice.url(path))
        assert "Approved" in await alice.outcome()
        assert await state(stage, news) == "given"
        assert alice.wrong == []


async def test_whoever_refuses_there_has_signed_nothing_and_may_try_again(
    stage: ApprovalStage, chromium: Chromium
) -> None:
    news = await stage.asked(args={"n": "refuse"})
    path = f"/approvals/{news['id']}"
    async with chromium.person(stage) as alice:
        await sign_in(alice, path)
        await to_the_issuer(alice)
        await at_the_issuer(alice, "alice", "Refuse")
        await alice.page.get_by_text("said no").wait_for()
        assert await state(stage, news) == "asked"
        await alice.goto(path)
        await to_the_issuer(alice)
        await at_the_issuer(alice, "carol")
        await alice.page.get_by_text("Somebody else signed in").wait_for()
        assert await state(stage, news) == "asked"
        await alice.goto(path)
        await to_the_issuer(alice)
        await at_the_issuer(alice, "alice")
        await alice.page.wait_for_url(alice.url(path))
        assert await state(stage, news) == "given"


async def test_a_link_that_somebody_sends_shows_the_approval_and_signs_nothing(
    stage: ApprovalStage, chromium: Chromium
) -> None:
    news = await stage.asked(args={"n": "link"})
    async with chromium.person(stage) as alice:
        await sign_in(alice, "/approvals")
        path = alice.url(f"/approvals/{news['id']}/oidc")
        await alice.page.goto(f'data:text/html,<a href="{path}">a kitten</a>')
        await alice.page.get_by_role("link", name="a kitten").click()
        await alice.page.get_by_role("heading", name="Not possible").wait_for()
        assert await state(stage, news) == "asked"


async def test_the_page_before_the_issuer_says_what_will_be_signed(
    stage: ApprovalStage, chromium: Chromium
) -> None:
    news = await stage.asked(args={"n": "leaving"})
    async with chromium.person(stage, java_script_enabled=False) as alice:
        await sign_in(alice, f"/approvals/{news['id']}")
        await alice.page.route("**/authorize**", lambda route: route.fulfill(status=204))
        await to_the_issuer(alice)
        await alice.page.get_by_text("you sign this, once: Allow ledger/wipe once").wait_for()

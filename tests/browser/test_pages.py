"""The pages in a real browser: from the invitation to the step that runs, and what does not get there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.browser.person import Chromium, Person
from tests.fakes.approver import ApprovalStage
from tests.fakes.stage import Opened

from stepwrit_broker.core.approval import ApprovalRecord


async def record(stage: ApprovalStage, news: dict[str, Any]) -> ApprovalRecord:
    found = await stage.broker.house.approvals.approval(news["id"])
    assert found is not None
    return found


async def state(stage: ApprovalStage, news: dict[str, Any]) -> str:
    return (await record(stage, news)).state


# --- the ordinary way


async def test_from_the_invitation_to_the_step_that_runs(stage: ApprovalStage, chromium: Chromium) -> None:
    async with chromium.person(stage) as alice:
        await alice.enrol("alice")
        news = await stage.asked(args={"year": "2019", "all": True})
        await alice.sign_in(f"/approvals/{news['id']}")
        assert await alice.heading() == "Allow ledger/wipe once, of high impact."
        text = await alice.page.locator(".text").inner_text()
        assert "Argument /year = “2019”" in text
        assert "Argument /all = true" in text
        await alice.press("Approve with passkey")
        assert alice.page.url == alice.url(f"/approvals/{news['id']}")
        assert "Approved" in await alice.outcome()
        assert await state(stage, news) == "given"
        (await stage.polled(news)).ok()
        signed = stage.happened((await record(stage, news)).asked.step.txn, "approval.signed")[0].facts
        assert signed is not None
        assert signed["method"] == "webauthn"
        assert alice.wrong == [], "nothing was blocked, nothing failed"


async def test_a_proposal_counts_for_nothing(stage: ApprovalStage, chromium: Chromium) -> None:
    async with chromium.person(stage) as thief:
        assert re.fullmatch(r"[0-9a-z-]{28}", await thief.propose("alice"))
        await thief.goto("/sign-in")
        got = await thief.answer("Sign in with a passkey")
        assert got.status == 401
        assert "an operator has not approved it yet" in await thief.outcome()


async def test_an_invitation_is_good_once(stage: ApprovalStage, chromium: Chromium) -> None:
    body = {"person": "alice", "reason": "a test"}
    made = (await stage.admin("POST", "/v1/admin/authenticators/invitations", body)).ok()
    async with chromium.person(stage) as first, chromium.person(stage) as second:
        for person, seen in ((first, "proposed"), (second, "used before")):
            await person.page.goto(made["url"])
            await person.page.get_by_role("button", name="Make the passkey").click()
            await person.page.locator(".notice").wait_for()
            assert seen in await person.outcome()
        assert first.page.url.endswith("/authenticators"), "the link is not in the address any more"


async def test_denying_with_a_reason_ends_the_step(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    await alice.page.get_by_label("Reason for denying").fill("not before the audit")
    await alice.press("Deny")
    assert "Reason: not before the audit" in await alice.outcome()
    assert (await stage.polled(news)).code == "access_denied"


async def test_denying_and_freezing_stops_the_transaction(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    txn = (await record(stage, news)).asked.step.txn
    await alice.open(news["id"])
    await alice.press("Deny and freeze this transaction")
    assert "Denied" in await alice.outcome()
    assert await alice.page.locator(".notice.warn").inner_text() != ""
    assert f"txn:{txn}" in stage.broker.store.marks()


async def test_two_persons_sign_one_after_the_other(
    stage: ApprovalStage, chromium: Chromium, alice: Person
) -> None:
    news = await stage.asked("both")
    await alice.open(news["id"])
    await alice.press("Approve with passkey")
    assert "You have signed" in await alice.outcome()
    assert await state(stage, news) == "asked"
    assert await alice.page.get_by_role("button", name="Approve with passkey").count() == 0
    async with chromium.person(stage) as bob:
        await bob.enrol("bob")
        await bob.sign_in(f"/approvals/{news['id']}")
        assert "the requester, with passkey" in await bob.page.inner_text("main")
        await bob.press("Approve with passkey")
        assert "Approved" in await bob.outcome()
    (await stage.polled(news)).ok()


# --- every way in which it does not


async def test_what_has_expired_can_be_signed_no_more(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    stage.pass_time(news["expires_in"] + 1)
    got = await alice.answer("Approve with passkey")
    assert got.status == 401, "the attempt is over, before the approval is looked at"
    assert "took too long" in await alice.outcome()
    await alice.open(news["id"])
    assert "Expired" in await alice.outcome()
    assert await alice.page.get_by_role("button", name="Approve with passkey").count() == 0
    assert (await stage.polled(news)).code == "expired_token"


async def test_what_expires_before_ones_eyes_is_refused(stage: ApprovalStage, chromium: Chromium) -> None:
    news = await stage.asked()
    stage.pass_time(news["expires_in"] - 60)
    async with chromium.person(stage) as alice:
        await alice.enrol("alice")
        await alice.sign_in(f"/approvals/{news['id']}")
        stage.pass_time(61)
        got = await alice.answer("Approve with passkey")
        assert got.status == 410
        assert "the approval has expired" in (await alice.outcome()).lower()
    assert not (await record(stage, news)).signed


async def test_what_was_used_is_used(stage: ApprovalStage, chromium: Chromium, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    other = await alice.context.new_page()
    await other.goto(alice.page.url)
    await alice.press("Approve with passkey")
    opened = (await stage.polled(news)).ok()
    performer, chat = await stage.actors("mcp-server/ledger", "agent/chat")
    step = Opened(step=opened["step"], txn=opened["txn"], token=opened["token"], args={"n": "1"}, by=chat)
    (await performer.accept(step)).ok()
    await alice.page.reload()
    assert "Approved and used" in await alice.outcome()
    await other.get_by_role("button", name="Deny", exact=True).click()
    await other.locator(".notice").wait_for()
    assert "Too late" in await other.locator(".notice").inner_text()
    await other.close()


async def test_a_signature_over_one_approval_is_none_for_another(stage: ApprovalStage, alice: Person) -> None:
    """The same step with other arguments: what was signed for the one is refused at the other."""
    one, two = await stage.asked(args={"n": "1"}), await stage.asked(args={"n": "2"})
    await alice.open(one["id"])
    form = alice.page.locator("form[data-passkey]")
    options = await form.get_attribute("data-options")
    nonce = await form.locator("[name=nonce]").input_value()
    for with_nonce in (True, False):
        await alice.open(two["id"])
        await alice.page.evaluate(
            """([options, nonce]) => {
                const form = document.querySelector("form[data-passkey]");
                form.dataset.options = options;
                if (nonce) form.elements.nonce.value = nonce;
            }""",
            [options, nonce if with_nonce else ""],
        )
        assert (await alice.answer("Approve with passkey")).status == 401
    assert await state(stage, two) == "asked"
    await alice.open(two["id"])
    await alice.press("Approve with passkey")
    assert await state(stage, two) == "given"
    assert await state(stage, one) == "asked"


async def test_somebody_else_sees_nothing(stage: ApprovalStage, chromium: Chromium, alice: Person) -> None:
    news = await stage.asked(args={"secret": "of alice"})
    await alice.open(news["id"])
    assert "of alice" in await alice.page.inner_text("main")
    async with chromium.person(stage) as carol:
        await carol.enrol("carol")
        await carol.sign_in()
        await carol.open(news["id"])
        assert await carol.heading() == "Not found"
        theirs = await carol.page.content()
        await carol.open(f"{news['id'][:-4]}AAAA")
        assert await carol.page.content() == theirs
        assert "of alice" not in theirs


async def test_a_cloned_authenticator_is_found_out(
    stage: ApprovalStage, chromium: Chromium, alice: Person
) -> None:
    one, two = await stage.asked("both", {"n": "1"}), await stage.asked("both", {"n": "2"})
    stolen = [{**each, "signCount": 1} for each in await alice.credentials()]
    for news in (one, two):
        await alice.open(news["id"])
        await alice.press("Approve with passkey")
    three = await stage.asked("both", {"n": "3"})
    async with chromium.person(stage) as thief:
        await thief.let_in("alice")
        await thief.open(three["id"])
        await thief.hold(stolen)
        got = await thief.answer("Approve with passkey")
        assert got.status == 403
        assert "a copy of it may exist" in await thief.outcome()
    assert not (await record(stage, three)).signed
    told = [each.facts or {} for each in stage.broker.ledger.tail(-1, 1000, ["refused"], None)][-1]
    assert (told["rule"], told["approval"]) == ("cloned_authenticator", three["id"])


async def test_an_assertion_that_was_sent_before_is_refused(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked("both")
    await alice.open(news["id"])
    got = await alice.answer("Approve with passkey")
    assert len((await record(stage, news)).signed) == 1
    request = got.request
    again = await alice.context.request.post(
        request.url,
        data=request.post_data or "",
        headers={
            "content-type": "application/x-www-form-urlencoded",
            "sec-fetch-site": "same-origin",
        },
    )
    assert again.status == 403
    assert "was used before" in await again.text()
    assert len((await record(stage, news)).signed) == 1


EVIL = "https://localhost:9443"  # another service on the same host: same RP ID, another origin


async def elsewhere(person: Person, body: str) -> None:
    """A page of another origin under the same RP ID: as near as an attacker may come."""

    async def answer(route: Any) -> None:
        inner = "" if route.request.url.endswith("/frame") else body
        await route.fulfill(content_type="text/html", body=f"<!doctype html><title>x</title>{inner}")

    await person.page.route(f"{EVIL}/**", answer)
    await person.page.goto(f"{EVIL}/")


async def test_a_passkey_used_on_another_origin_signs_nothing(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    form = alice.page.locator("form[data-passkey]")
    fields = {
        name: await form.locator(f"[name={name}]").input_value() for name in ("csrf", "nonce", "credential")
    }
    options = await form.get_attribute("data-options")
    script = await alice.page.locator("script[src]").get_attribute("src")
    library = await (await alice.context.request.get(alice.url(script or ""))).text()
    await elsewhere(alice, "<p>win a prize</p>")
    await alice.page.add_script_tag(content=library)
    said = await alice.page.evaluate("async (options) => await get(JSON.parse(options))", options)
    assert '"signature"' in said, "the browser signs under the same RP ID: only we can tell"
    headers = {"sec-fetch-site": "same-origin"}
    got = await alice.context.request.post(
        alice.url(f"/approvals/{news['id']}/approve"), form={**fields, "credential": said}, headers=headers
    )
    assert got.status == 401
    assert not (await record(stage, news)).signed
    await alice.open(news["id"])
    await alice.press("Approve with passkey")
    assert await state(stage, news) == "given"


async def test_a_form_on_another_page_denies_nothing(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    token = await alice.page.locator("input[name=csrf]").first.input_value()
    action = alice.url(f"/approvals/{news['id']}/deny")
    await elsewhere(
        alice,
        f"<form method=post action='{action}'><input name=csrf value='{token}'><input name=then value=freeze>"
        "<button>Win</button></form>",
    )
    assert (await alice.answer("Win")).status == 403
    assert await state(stage, news) == "asked"
    await alice.open(news["id"])
    assert (await alice.answer("Deny")).status == 303


async def test_a_form_of_ours_without_its_token_denies_nothing(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    await alice.page.evaluate("document.querySelectorAll('[name=csrf]').forEach((each) => each.remove())")
    assert (await alice.answer("Deny")).status == 401
    assert await state(stage, news) == "asked"
    await alice.open(news["id"])
    assert (await alice.answer("Deny")).status == 303


async def test_a_link_from_elsewhere_opens_the_page_of_who_is_signed_in(
    stage: ApprovalStage, alice: Person
) -> None:
    """The cookie is strict: without a second step the browser would keep it back."""
    news = await stage.asked()
    await elsewhere(alice, f"<a href='{alice.url('/approvals/' + news['id'])}'>You have to sign</a>")
    await alice.page.get_by_role("link", name="You have to sign").click()
    await alice.page.get_by_role("button", name="Approve with passkey").wait_for()


async def test_the_page_is_in_no_frame(stage: ApprovalStage, alice: Person) -> None:
    await elsewhere(alice, "<iframe src='/frame'></iframe>")
    assert [frame.url for frame in alice.page.frames[1:]] == [f"{EVIL}/frame"], "another page is"
    await elsewhere(alice, f"<iframe src='{alice.url('/sign-in')}'></iframe>")
    frames = [frame.url for frame in alice.page.frames[1:]]
    assert frames == ["chrome-error://chromewebdata/"]


NASTY = '<script>window.pwned=1</script>"><img src=x onerror=window.pwned=1>\u202egnp.exe раураl {{7*7}}'


async def test_markup_in_every_field_stays_text(stage: ApprovalStage, alice: Person) -> None:
    args = {NASTY: NASTY, "list": [NASTY], "deep": {NASTY: {NASTY: NASTY}}, "n": "x" * 5_000}
    news = await stage.asked(args=args, purpose=NASTY)
    await alice.open(news["id"])
    shown = await alice.page.inner_text("main")
    assert "<script>window.pwned=1</script>" in shown, "it can be read"
    assert "⟨U+202E⟩" in shown
    assert "letters: cyrillic" in shown
    assert "characters left out" in shown
    await alice.page.get_by_label("Reason for denying").fill(NASTY)
    await alice.press("Deny")
    await alice.goto("/approvals")
    assert await alice.page.evaluate("window.pwned") is None
    assert alice.wrong == []


# --- without a script


async def test_without_a_script_it_is_read_and_denied(stage: ApprovalStage, chromium: Chromium) -> None:
    news = await stage.asked(args={"year": "2019"})
    async with chromium.person(stage, java_script_enabled=False) as alice:
        await alice.let_in("alice")
        await alice.open(news["id"])
        shown = await alice.page.inner_text("main")
        assert "Argument /year = “2019”" in shown
        assert "Expires in" in shown
        await alice.page.get_by_label("Reason for denying").fill("no")
        await alice.press("Deny")
        assert "Denied" in await alice.outcome()
    assert await state(stage, news) == "denied"


async def test_without_a_script_the_button_says_why_it_does_nothing(
    stage: ApprovalStage, chromium: Chromium, alice: Person
) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    assert await alice.page.get_by_role("button", name="Approve with passkey").is_enabled()
    async with chromium.person(stage, java_script_enabled=False) as bare:
        await bare.let_in("alice")
        await bare.open(news["id"])
        button = bare.page.get_by_role("button", name="Approve with passkey")
        assert await button.is_disabled()
        assert "A passkey needs JavaScript" in await bare.page.inner_text("main")
        await bare.goto("/sign-in")


async def test_a_page_that_is_too_old_is_loaded_again(stage: ApprovalStage, alice: Person) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    await alice.page.evaluate("document.querySelector('form[data-passkey]').dataset.goodFor = '0'")
    await alice.page.get_by_role("button", name="Approve with passkey").click()
    assert "too old" in await alice.page.locator("[data-wrong]").inner_text()
    async with alice.page.expect_navigation():
        pass
    await alice.press("Approve with passkey")
    assert await state(stage, news) == "given"


@pytest.mark.parametrize("error", ["NotAllowedError", "SomethingElse"])
async def test_what_the_device_refuses_is_told_and_can_be_tried_again(
    stage: ApprovalStage, alice: Person, error: str
) -> None:
    news = await stage.asked()
    await alice.open(news["id"])
    await alice.page.evaluate(
        """(name) => {
            const real = navigator.credentials.get.bind(navigator.credentials);
            navigator.credentials.get = () => {
                navigator.credentials.get = real;
                throw Object.assign(new Error(), { name });
            };
        }""",
        error,
    )
    await alice.page.get_by_role("button", name="Approve with passkey").click()
    await alice.page.get_by_text("Nothing was signed").wait_for()
    await alice.press("Approve with passkey")
    assert await state(stage, news) == "given"

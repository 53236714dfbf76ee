"""The pages without a browser: who sees what, what each form does, and what every answer carries."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.edge.visitor import Reader, Visitor, pages_of, registered, soft, words
from tests.fakes.passkey import SoftPasskey
from tests.flows.rig import ISSUER, Rig
from tests.flows.test_approvals import ALICE, BOB, CAROL, LISTED, asked, poll, sign

from stepwrit.wire import MarkRequest
from stepwrit_broker.core import ids
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.edge.http import Request
from stepwrit_broker.edge.pages.app import Pages
from stepwrit_broker.edge.pages.door import ADDRESSES_MAX, Door
from stepwrit_broker.edge.pages.session import Sessions
from stepwrit_broker.edge.pages.shown import moment
from stepwrit_broker.flows import approving, enrolling, revoke

UNKNOWN = ids.make_id("apr", "00", bytes(17))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


@pytest.fixture
def app(rig: Rig) -> Pages:
    return pages_of(rig)


@pytest.fixture
async def stranger(app: Pages) -> AsyncIterator[Visitor]:
    one = Visitor(app)
    yield one
    await one.close()


@pytest.fixture
async def key(rig: Rig) -> SoftPasskey:
    made = soft()
    await registered(rig, made, ALICE)
    return made


@pytest.fixture
async def alice(app: Pages, key: SoftPasskey) -> AsyncIterator[Visitor]:
    one = Visitor(app)
    assert (await one.sign_in(key)).status_code == 303
    yield one
    await one.close()


@pytest.fixture
async def bob(rig: Rig, app: Pages) -> AsyncIterator[tuple[Visitor, SoftPasskey]]:
    one, made = Visitor(app), soft()
    await registered(rig, made, BOB)
    assert (await one.sign_in(made)).status_code == 303
    yield one, made
    await one.close()


def at(record: ApprovalRecord) -> str:
    return f"/approvals/{record.asked.id}"


async def approve(visitor: Visitor, key: SoftPasskey, record: ApprovalRecord) -> Any:
    form = await visitor.form(at(record), f"{at(record)}/approve")
    return await visitor.send(form, credential=key.sign(form.options))


async def state(rig: Rig, record: ApprovalRecord) -> str:
    found = await rig.store.approvals.approval(record.asked.id)
    assert found is not None
    return found.state


# --- signing in


async def test_who_is_not_signed_in_is_asked_whatever_the_address_names(
    rig: Rig, stranger: Visitor, alice: Visitor
) -> None:
    record = await asked(rig, await rig.start())
    assert (await alice.get(at(record))).status_code == 200
    for path in (at(record), f"/approvals/{UNKNOWN}", "/approvals", "/authenticators"):
        answer = await stranger.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={path}")
        assert not answer.content


async def test_signing_in_leads_to_where_one_wanted_to_go(app: Pages, key: SoftPasskey) -> None:
    for wanted, got in (
        ("/authenticators", "/authenticators"),
        (f"/approvals/{UNKNOWN}", f"/approvals/{UNKNOWN}"),
        ("https://evil.example", "/approvals"),
        ("//evil.example", "/approvals"),
        ("/approvals/../x", "/approvals"),
        ("/approvals%0d%0aset-cookie:x", "/approvals"),
    ):
        visitor = Visitor(app)
        answer = await visitor.sign_in(key, wanted)
        assert (answer.status_code, answer.headers["location"]) == (303, got)
        again = await visitor.get(f"/sign-in?next={wanted}")
        assert (again.status_code, again.headers["location"]) == (303, got)
        await visitor.close()


async def test_the_cookie_is_strict_and_reads_as_nothing(app: Pages, key: SoftPasskey) -> None:
    visitor = Visitor(app)
    answer = await visitor.sign_in(key)
    set_to = answer.headers["set-cookie"]
    assert set_to.startswith("__Host-stepwrit=")
    told = {each.strip() for each in set_to.split(";")[1:]}
    assert told == {"Max-Age=900", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"}
    assert "alice" not in set_to
    await visitor.close()


async def test_a_session_ends_by_itself_by_signing_out_and_with_its_passkey(
    rig: Rig, app: Pages, alice: Visitor, key: SoftPasskey
) -> None:
    rig.clock.time += 899
    assert (await alice.get("/approvals")).status_code == 200
    rig.clock.time += 1
    assert (await alice.get("/approvals")).status_code == 303
    await alice.sign_in(key)
    assert (await alice.get("/approvals")).status_code == 200
    await alice.send(await alice.form("/approvals", "/sign-out"))
    assert alice.cookie is None
    await alice.sign_in(key)
    mine = (await rig.store.approvals.authenticators(ALICE))[0]
    await enrolling.decide(rig.house, "ops", mine.id, "retire", "lost")
    assert (await alice.get("/approvals")).status_code == 303


@pytest.mark.parametrize(
    "change",
    [lambda c: c[:-2] + "AA", lambda c: "A" + c[1:], lambda c: "", lambda c: "é", lambda c: c + "; x"],
)
async def test_a_cookie_that_is_not_ours_is_none(alice: Visitor, change: Any) -> None:
    assert (await alice.get("/approvals")).status_code == 200
    assert alice.cookie is not None
    bad = change(alice.cookie).encode("latin-1")
    alice.cookie = None
    answer = await alice.ask("GET", "/approvals", headers={b"cookie": b"__Host-stepwrit=" + bad})
    assert answer.status_code in (200, 303)
    assert answer.status_code == (200 if bad.endswith(b"; x") else 303)


async def test_two_cookies_are_none(alice: Visitor) -> None:
    cookie, alice.cookie = alice.cookie, None
    both = f"__Host-stepwrit={cookie}; __Host-stepwrit={cookie}"
    assert (await alice.get("/approvals", headers={"cookie": both})).status_code == 303


async def test_from_another_site_the_page_is_asked_for_once_more_from_here(alice: Visitor) -> None:
    """The browser keeps the strict cookie to itself when a mail or a chat leads here."""
    cookie, alice.cookie = alice.cookie, None
    answer = await alice.get("/approvals", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/approvals">' in answer.text
    alice.cookie = cookie
    assert "alice" in words(await alice.get("/approvals"))


async def test_an_answer_signs_in_once_and_somebody_elses_never(stranger: Visitor, key: SoftPasskey) -> None:
    form = await stranger.form("/sign-in", "/sign-in")
    said = key.sign(form.options)
    assert (await stranger.send(form, credential=said)).status_code == 303
    stranger.cookie = None
    assert (await stranger.send(form, credential=said)).status_code == 403
    form = await stranger.form("/sign-in", "/sign-in")
    unknown = await stranger.send(form, credential=soft().sign(form.options))
    assert unknown.status_code == 401
    assert "not registered" in words(unknown)
    assert stranger.cookie is None


@pytest.mark.parametrize("nonce", ["", "AAAA", "not base64url!"])
async def test_an_attempt_that_was_not_begun_here_is_refused(
    stranger: Visitor, key: SoftPasskey, nonce: str
) -> None:
    form = await stranger.form("/sign-in", "/sign-in")
    assert (await stranger.send(form, credential=key.sign(form.options), nonce=nonce)).status_code == 401
    assert (await stranger.send(form, credential=key.sign(form.options))).status_code == 303


# --- one approval


async def test_a_person_reads_signs_and_sees_it_given(rig: Rig, alice: Visitor, key: SoftPasskey) -> None:
    record = await asked(rig, await rig.start())
    page = words(await alice.get(at(record)))
    view = await approving.view(rig.house, ALICE, record.asked.id)
    assert view.text is not None
    for line in view.text:
        assert line in page, "every line that is signed is shown as it is"
    assert record.asked.text in page
    assert "Low impact" in page
    assert "A model chose it" in page
    assert "Expires in 15 minutes" in page
    assert "1 signature, of the requester" in page
    answer = await approve(alice, key, record)
    assert (answer.status_code, answer.headers["location"]) == (303, at(record))
    assert await state(rig, record) == "given"
    page = words(await alice.get(at(record)))
    assert "Approved All signatures are there" in page
    assert "you, with passkey" in page


async def test_the_first_of_two_signatures_says_that_one_is_missing(
    rig: Rig, alice: Visitor, key: SoftPasskey, bob: tuple[Visitor, SoftPasskey]
) -> None:
    record = await asked(
        rig, await rig.start(), "mail/pay", Terms(count=2, persons=frozenset({"bob"}), requester=True)
    )
    assert "2 signatures, of the requester, bob" in words(await alice.get(at(record)))
    await approve(alice, key, record)
    mine = words(await alice.get(at(record)))
    assert "You have signed 1 more signature is needed" in mine
    assert "Approve with passkey" not in mine
    theirs = words(await bob[0].get(at(record)))
    assert "the requester, with passkey" in theirs
    await approve(*bob, record)
    assert await state(rig, record) == "given"


async def test_a_person_denies_with_a_reason_and_without_a_script(rig: Rig, alice: Visitor) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/deny")
    assert "data-passkey" not in form.data
    assert [(each["name"], each["value"]) for each in form.buttons] == [("then", "end"), ("then", "freeze")]
    answer = await alice.send(form, reason="  not <b>now</b>\r\n", then="end")
    assert answer.status_code == 303
    assert await state(rig, record) == "denied"
    page = await alice.get(at(record))
    assert "Denied The step has ended and will not run. Reason: not <b>now</b>" in words(page)
    assert "not &lt;b&gt;now" in page.text
    assert "Argument" not in words(page), "the text is erased"
    assert "mark.set" not in [each["kind"] for each in rig.entries()]


async def test_deny_and_freeze_stops_the_transaction(rig: Rig, alice: Visitor) -> None:
    root = await rig.start()
    record, other = await asked(rig, root), await asked(rig, root)
    form = await alice.form(at(record), f"{at(record)}/deny")
    await alice.send(form, reason="r" * 5_000, then="freeze")
    assert await state(rig, record) == "denied"
    assert f"txn:{record.asked.step.txn}" in rig.store.marks()
    assert "Frozen" in words(await alice.get(at(record)))
    page = words(await alice.get(at(other)))
    assert "Frozen Nothing of this goes on" in page
    assert "Approve with passkey" not in page
    assert "Frozen" in words(await alice.get("/approvals"))
    form = await alice.form(at(other), f"{at(other)}/deny")
    await alice.send(form, then="end")
    assert await state(rig, other) == "denied", "what is frozen can be denied"


async def test_what_is_over_says_so_and_takes_nothing_more(
    rig: Rig, alice: Visitor, key: SoftPasskey
) -> None:
    root = await rig.start()
    used, late, gone = [await asked(rig, root) for _ in range(3)]
    used_form, gone_form = [await alice.form(at(each), f"{at(each)}/approve") for each in (used, gone)]
    await sign(rig, used)
    await rig.take(await poll(rig, used))
    await approving.cancel(rig.house, "ops", gone.asked.id, "a mistake")
    assert "Approved and used" in words(await alice.get(at(used)))
    assert "Cancelled The step has ended and will not run. Reason: a mistake" in words(
        await alice.get(at(gone))
    )
    for form, status in ((used_form, 409), (gone_form, 403)):
        assert (await alice.send(form, credential=key.sign(form.options))).status_code == status
    rig.clock.time = late.asked.expires_at
    await alice.sign_in(key)
    page = words(await alice.get(at(late)))
    assert "Expired Nobody signed in time." in page
    assert "Deny" not in page
    assert await state(rig, late) == "asked", "the sweep has not been there yet"
    assert at(late) not in (await alice.get("/approvals")).text


async def test_who_may_not_sign_sees_what_is_not_there(
    rig: Rig, alice: Visitor, bob: tuple[Visitor, SoftPasskey]
) -> None:
    record = await asked(rig, await rig.start())
    assert (await alice.get(at(record))).status_code == 200
    theirs, unknown = await bob[0].get(at(record)), await bob[0].get(f"/approvals/{UNKNOWN}")
    assert (theirs.status_code, unknown.status_code) == (404, 404)
    assert theirs.text == unknown.text
    assert "mail/pay" not in theirs.text
    mine = await alice.form(at(record), f"{at(record)}/deny")
    mine.fields["csrf"] = rig_token(rig, bob[0])
    no = await bob[0].send(mine, then="freeze")
    assert no.status_code == 404
    assert await state(rig, record) == "asked"
    assert not rig.store.marks()
    told = rig.entries("refused")[-1]
    assert (told["code"], told["role"], told["verb"]) == ("not_found", "person", "deny")
    assert "bob" not in str(told)


def rig_token(rig: Rig, visitor: Visitor) -> str:
    """The form's token of a visitor's session."""
    sessions = Sessions(rig.house)
    assert visitor.cookie is not None
    session = sessions._read(visitor.cookie)
    assert session is not None
    return sessions.token(session)


async def test_without_a_passkey_that_counts_there_is_no_button(
    rig: Rig, alice: Visitor, stranger: Visitor
) -> None:
    """Who signed in another way can deny at once, and is told how to come to a passkey."""
    record = await asked(
        rig, await rig.start(), "mail/pay", Terms(persons=frozenset({"carol"}), requester=True)
    )
    assert "Approve with passkey" in words(await alice.get(at(record)))
    header = Sessions(rig.house).signed_in(CAROL, "oidc", rig.clock.time)[1].decode()
    stranger.cookie = header.partition("=")[2].partition(";")[0]
    page = words(await stranger.get(at(record)))
    assert "carol" in page
    assert "You have no passkey that counts here" in page
    assert "Approve with passkey" not in page
    await stranger.send(await stranger.form(at(record), f"{at(record)}/deny"), then="end")
    assert await state(rig, record) == "denied"


async def test_an_attempt_that_was_not_begun_here_signs_nothing(
    rig: Rig, alice: Visitor, key: SoftPasskey
) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/approve")
    said = key.sign(form.options)
    for nonce in ("", "AAAA", "not base64url!"):
        assert (await alice.send(form, credential=said, nonce=nonce)).status_code == 401
    assert (await alice.send(form, credential=said)).status_code == 303


async def test_a_revoked_step_says_so(rig: Rig, alice: Visitor) -> None:
    root = await rig.start()
    record = await asked(rig, root)
    page = words(await alice.get(at(record)))
    assert "Revoked" not in page
    request = MarkRequest(verb="revoke", target=f"txn:{record.asked.step.txn}", reason="r")
    await revoke.mark(rig.house, revoke.Operator(name="ops"), request, rig.op(), "d")
    page = words(await alice.get(at(record)))
    assert "Approve with passkey" not in page


async def test_a_signature_of_a_retired_passkey_is_told(
    rig: Rig, alice: Visitor, key: SoftPasskey, bob: tuple[Visitor, SoftPasskey]
) -> None:
    terms = Terms(count=2, persons=frozenset({"bob"}), requester=True)
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    await approve(*bob, record)
    assert "bob, with passkey," in words(await alice.get(at(record)))
    theirs = (await rig.store.approvals.authenticators(BOB))[0]
    await enrolling.decide(rig.house, "ops", theirs.id, "retire", "lost")
    page = words(await alice.get(at(record)))
    assert "bob, with passkey (retired since: it counts no more)" in page
    assert "2 are missing" in page


def test_times_are_told_in_words_and_never_rounded_up() -> None:
    told = [
        (7_200, "2 hours"),
        (7_199, "119 minutes"),
        (120, "2 minutes"),
        (119, "119 seconds"),
        (1, "1 second"),
    ]
    for left, said in told:
        assert moment(1_000.0 + left, 1_000.0).left_words == said
    assert moment(1_000.0, 2_000.0).left_words == "0 seconds"
    assert moment(0.0, 0.0).words == "1970-01-01 00:00 UTC"


# --- what is on record


async def test_a_refused_signature_is_on_record_without_a_name(
    rig: Rig, alice: Visitor, key: SoftPasskey
) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/approve")
    key.counter = 0
    answer = await alice.send(form, credential=key.sign(form.options))
    assert answer.status_code == 403
    assert "a copy of it may exist" in words(answer)
    told = rig.entries("refused")[-1]
    assert (told["code"], told["rule"], told["approval"]) == (
        "access_denied",
        "cloned_authenticator",
        record.asked.id,
    )
    assert told["caller"] == rig.house.opaque(ALICE)
    assert told["ref"] in words(answer)
    assert await state(rig, record) == "asked"
    key.counter = 9
    assert (await approve(alice, key, record)).status_code == 303


# --- forms from elsewhere


async def test_a_form_needs_the_token_of_its_session(
    rig: Rig, alice: Visitor, bob: tuple[Visitor, SoftPasskey]
) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/deny")
    for bad in ("", "x", "é", rig_token(rig, bob[0])):
        assert (await alice.send(form, csrf=bad, then="end")).status_code == 401
    assert await state(rig, record) == "asked"
    assert (await alice.send(form, then="end")).status_code == 303


FOREIGN: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site", "origin": "https://other.broker.example"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
    {"sec-fetch-site": "", "origin": "https://evil.example"},
    {"sec-fetch-site": "", "origin": "null"},
    {"sec-fetch-site": ""},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_form_from_elsewhere_is_refused(
    rig: Rig, alice: Visitor, stranger: Visitor, key: SoftPasskey, headers: dict[str, str]
) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/deny")
    assert (await alice.send(form, headers, then="end")).status_code == 403
    assert await state(rig, record) == "asked"
    door = await stranger.form("/sign-in", "/sign-in")
    said = key.sign(door.options)
    assert (await stranger.send(door, headers, credential=said)).status_code == 403
    assert stranger.cookie is None, "nobody is signed in as somebody else from afar"
    assert (await stranger.send(door, credential=said)).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [{"origin": "null"}, {"origin": ISSUER}, {"sec-fetch-site": "", "origin": ISSUER}],
)
async def test_a_form_of_ours_is_taken(rig: Rig, alice: Visitor, headers: dict[str, str]) -> None:
    record = await asked(rig, await rig.start())
    form = await alice.form(at(record), f"{at(record)}/deny")
    assert (await alice.send(form, headers, then="end")).status_code == 303


# --- what waits


async def test_the_list_groups_by_transaction_and_tells_who_asks_much(rig: Rig, alice: Visitor) -> None:
    root = await rig.start()
    records = [await asked(rig, root, args={"to": f"bob{n}"}) for n in range(3)]
    page = await alice.get("/approvals")
    told = words(page)
    assert "3 approvals wait for you" in told
    assert "Many requests from one place spiffe://example.test/agent/chat waits for 3" in told
    assert f"Transaction {root.step.txn} . 3 started by spiffe://example.test/agent/chat" in told
    assert [each in page.text for each in map(at, records)] == [True] * 3
    assert "/to = “bob1”" in told
    await approving.deny(rig.house, ALICE, records[0].asked.id, "")
    told = words(await alice.get("/approvals"))
    assert "2 approvals wait for you" in told
    assert "Many requests" not in told


async def test_nothing_waits_for_others(rig: Rig, bob: tuple[Visitor, SoftPasskey]) -> None:
    record = await asked(rig, await rig.start())
    page = await bob[0].get("/approvals")
    assert "Nothing waits for you" in words(page)
    assert at(record) not in page.text


# --- markup and tricks in every field


NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\u202e{{7*7}}\x00&lt;'


async def test_markup_in_every_field_is_only_text(rig: Rig, alice: Visitor, key: SoftPasskey) -> None:
    persons = replace_name(rig, NASTY)
    rig.settings.registry = replace(rig.settings.registry, persons=persons)
    root = await rig.start(purpose=NASTY)
    record = await asked(rig, root, "mail/pay", Terms(persons=frozenset({NASTY}), requester=True),
                         args={NASTY: NASTY, "to": NASTY[:60], "of": [NASTY, {NASTY: NASTY}]})  # fmt: skip
    for path in (at(record), "/approvals", "/authenticators"):
        check_harmless((await alice.get(path)).text)
    form = await alice.form(at(record), f"{at(record)}/deny")
    await alice.send(form, reason=NASTY.replace("\x00", ""), then="end")
    check_harmless((await alice.get(at(record))).text)


def replace_name(rig: Rig, name: str) -> Any:
    persons = rig.settings.registry.persons
    links = {**persons.links, name: persons.links["alice"]}
    del links["alice"]
    return type(persons)(links, dict.fromkeys(links, "acme"))


def check_harmless(text: str) -> None:
    read = Reader(text)
    scripts = [given for tag, given in read.tags if tag == "script"]
    assert [given["src"] for given in scripts] == [re.search(r'src="(/pages/[^"]+)"', text)[1]]  # type: ignore[index]
    assert not [tag for tag, _ in read.tags if tag in ("img", "iframe", "object", "style", "base")]
    assert not [name for _, given in read.tags for name in given if name.startswith("on") or name == "style"]
    assert "49" not in re.sub(r"[0-9A-Za-z_-]{10,}", "", text), "a template of theirs was evaluated"
    assert "\u202e" not in text
    assert "\x00" not in text


async def test_markup_in_what_an_invitation_says_is_only_text(rig: Rig, stranger: Visitor) -> None:
    made = await enrolling.invite(rig.house, "ops", Identity(ALICE.issuer, NASTY), "r")
    key = soft()
    new = await stranger.form("/authenticators/new", "/authenticators/new")
    opened = await stranger.send(new, invitation=made.url.partition("#")[2])
    check_harmless(opened.text)
    form = Reader(opened.text).forms[-1]
    done = await stranger.send(form, credential=key.make(form.options), label=NASTY.replace("\x00", ""))
    check_harmless(done.text)
    mine = (await rig.store.approvals.authenticators(None))[-1]
    assert "\u202e" not in mine.label


# --- invitations


async def test_an_invitation_leads_to_a_proposal_and_its_fingerprint(rig: Rig, stranger: Visitor) -> None:
    made = await enrolling.invite(rig.house, "ops", ALICE, "new laptop")
    path, _, sealed = made.url.removeprefix(ISSUER).partition("#")
    form = await stranger.form(path, "/authenticators/new")
    opened = await stranger.send(form, invitation=sealed)
    assert "Make a passkey for alice" in words(opened)
    key, form = soft(), Reader(opened.text).forms[-1]
    answer = await stranger.send(form, credential=key.make(form.options), label="my laptop")
    mine = (await rig.store.approvals.authenticators(ALICE))[0]
    assert (mine.state, mine.label) == ("proposed", "my laptop")
    assert mine.fingerprint in words(answer)
    assert stranger.cookie is None, "an invitation signs nobody in"
    again = await stranger.send(form, credential=key.make(form.options))
    assert again.status_code == 403
    assert "used before" in words(again)


async def test_what_is_no_invitation_opens_nothing(rig: Rig, stranger: Visitor) -> None:
    made = await enrolling.invite(rig.house, "ops", ALICE, "new laptop")
    form = await stranger.form("/authenticators/new", "/authenticators/new")
    assert (await stranger.send(form, invitation="AAAA")).status_code == 404
    rig.clock.time += 901
    assert (await stranger.send(form, invitation=made.url.partition("#")[2])).status_code == 410


async def test_a_person_sees_their_own_passkeys(rig: Rig, alice: Visitor, key: SoftPasskey) -> None:
    theirs = await registered(rig, soft(), BOB)
    mine = (await rig.store.approvals.authenticators(ALICE))[0]
    page = words(await alice.get("/authenticators"))
    assert mine.fingerprint in page
    assert "Counts" in page
    assert theirs.fingerprint not in page


# --- what every answer carries


async def test_every_answer_is_locked_down(rig: Rig, alice: Visitor, stranger: Visitor) -> None:
    record = await asked(rig, await rig.start())
    answers = [
        await alice.get("/approvals"),
        await alice.get(at(record)),
        await alice.get(f"/approvals/{UNKNOWN}"),
        await alice.get("/authenticators"),
        await stranger.get("/approvals"),
        await stranger.get("/sign-in"),
        await stranger.get("/sign-in/nowhere"),
        await stranger.ask("PUT", "/sign-in"),
        await stranger.ask("POST", "/sign-in", content=b"x", headers={"content-type": "text/plain"}),
    ]
    assert [each.status_code for each in answers] == [200, 200, 404, 200, 303, 200, 404, 405, 400]
    for answer in answers:
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "publickey-credentials-get=(self)" in answer.headers["permissions-policy"]
        assert "camera=()" in answer.headers["permissions-policy"]
        assert "onclick" not in answer.text


async def test_style_and_script_are_named_by_what_they_are(stranger: Visitor) -> None:
    page = (await stranger.get("/sign-in")).text
    for path in re.findall(r'"(/pages/[^"]+)"', page):
        answer = await stranger.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert (await stranger.get(path.replace("-", "0-"))).status_code == 404
        head = await stranger.ask("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")


async def test_what_is_no_page_goes_on_to_the_rest(stranger: Visitor) -> None:
    for path in ("/oauth/jwks", "/v1/approvals", "/", "/metrics"):
        assert (await stranger.get(path)).text == "rest"


async def test_strangers_are_slowed_down_each_for_themselves(rig: Rig, app: Pages, key: SoftPasskey) -> None:
    loud, quiet = Visitor(app, address="192.0.2.7"), Visitor(app, address="2001:db8::1")
    form = await loud.form("/sign-in", "/sign-in")
    tries = [(await loud.send(form, credential="{}")).status_code for _ in range(25)]
    assert tries == [401] * 20 + [429] * 5
    assert int((await loud.send(form, credential="{}")).headers["retry-after"]) >= 1
    assert (await quiet.sign_in(key)).status_code == 303
    rig.clock.time += 60
    assert (await loud.sign_in(key)).status_code == 303
    await loud.close()
    await quiet.close()


async def test_pages_are_limited_too(rig: Rig, app: Pages) -> None:
    visitor = Visitor(app, address="2001:db8:0:1::5")
    got = [(await visitor.get("/sign-in")).status_code for _ in range(130)]
    assert got[:120] == [200] * 120
    assert 429 in got[120:]
    same_house = Visitor(app, address="2001:db8:0:1::6")
    assert (await same_house.get("/sign-in")).status_code == 429
    await visitor.close()
    await same_house.close()


async def test_addresses_are_remembered_within_bounds() -> None:
    door = Door(burst=1, every_s=10.0)

    def seen(address: str) -> None:
        door.check(Request(scope={"client": (address, 1)}, method="GET", path="/", body=b""), 1_000.0)

    seen("192.0.2.1")
    with pytest.raises(Refused):
        seen("192.0.2.1")
    for number in range(ADDRESSES_MAX):
        seen(f"10.0.{number // 256}.{number % 256}")
    assert len(door._tats) == ADDRESSES_MAX
    seen("192.0.2.1")
    for unknown in ("", "unix"):
        door.check(
            Request(scope={"client": None}, method="GET", path="/", body=b""), 1_000.0 + len(unknown) * 9
        )


async def test_in_doubt_a_page_says_not_now(rig: Rig, alice: Visitor) -> None:
    rig.clock.doubt = True
    answer = await alice.get("/approvals")
    assert answer.status_code == 503
    assert "the clock jumped" in words(answer).lower()
    rig.clock.doubt = False
    assert (await alice.get("/approvals")).status_code == 200


async def test_without_a_registry_in_force_a_page_says_not_now(rig: Rig, alice: Visitor) -> None:
    assert (await alice.get("/approvals")).status_code == 200
    rig.settings.missing = True
    answer = await alice.get("/approvals")
    assert answer.status_code == 503
    assert "Not now" in words(answer)
    assert "Signed in" not in words(answer)


async def test_an_error_of_ours_tells_nothing(
    rig: Rig, alice: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(approving, "waiting", broken)
    answer = await alice.get("/approvals")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "An error of ours; nothing was signed or denied." in words(answer)

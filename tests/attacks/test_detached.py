"""An approver's key over the wire: what it opens, and everything that must not pass for a signature by it."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.approver import OTHER_IDP, ApprovalStage, Approver, raw_signature
from tests.fakes.stage import ISSUER, Opened, refused

from stepwrit.digest import args_digest, b64u, unb64u
from stepwrit.dpop import make_proof
from stepwrit.jws import SigningKey
from stepwrit_broker.approvals.keys import check, jwk_of
from stepwrit_broker.core.approval_text import text_digest
from stepwrit_broker.core.statement import APPROVAL, read_statement, request_statement
from stepwrit_broker.edge import approvers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def approval_stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage() as stage:
        yield stage


@pytest.fixture
def stage(approval_stage: ApprovalStage) -> ApprovalStage:
    approval_stage.forget_refusals()
    return approval_stage


async def alice_of(stage: ApprovalStage) -> Approver:
    return await Approver.registered(stage, "alice")


# --- the right use


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
async def test_a_registered_key_signs_what_it_was_shown_and_the_step_runs_once(
    stage: ApprovalStage, kind: str
) -> None:
    news, alice = await stage.asked(), await Approver.registered(stage, "alice", kind=kind)
    assert (await alice.waiting()).ok()["waiting"][0]["id"] == news["id"]
    shown = (await alice.show(news["id"])).ok()
    assert args_digest(shown["document"]) == shown["digest"]
    assert text_digest(shown["text"]) == shown["document"]["text"]
    assert shown["text"][0] == "Allow ledger/wipe once, of high impact."
    assert (await alice.sign(news["id"])).ok()["state"] == "given"
    body = (await stage.polled(news)).ok()
    opened = Opened(
        step=body["step"], txn=body["txn"], token=body["token"], args={"n": "1"},
        by=await stage.actor("agent/chat"),
    )  # fmt: skip
    (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
    await _verified_offline(stage, body["txn"], alice)


async def _verified_offline(stage: ApprovalStage, txn: str, alice: Approver) -> None:
    """With what the ledger has, and nothing else."""
    (asked,) = stage.happened(txn, "approval.asked")
    (signed,) = stage.happened(txn, "approval.signed")
    assert asked.facts is not None
    assert signed.facts is not None
    evidence: dict[str, Any] = signed.facts["evidence"]  # type: ignore[assignment]
    registered = [
        entry.facts for entry in stage.broker.ledger.tail(-1, 1000, ["authenticator.approved"], None)
        if entry.facts and entry.facts["authenticator"] == signed.facts["authenticator"]
    ]  # fmt: skip
    assert [each["public_key"] for each in registered] == [evidence["public_key"]]
    said = evidence["statement"].encode()
    check(evidence["public_key"], APPROVAL, said, unb64u(evidence["signature"]))
    told = read_statement(APPROVAL, said)
    assert (told["digest"], told["approval"]) == (asked.facts["digest"], asked.facts["approval"])
    kept = stage.broker.ledger.decision(str(asked.facts["decision"]))
    assert kept is not None
    assert args_digest(dict(kept["signed"])) == told["digest"]


async def test_registering_a_key_is_two_entries_with_the_operator_and_the_fingerprint(
    stage: ApprovalStage,
) -> None:
    bob = Approver(stage=stage)
    made = (await bob.register(person="bob", label="laptop")).ok()
    assert (made["id"], made["state"], made["label"]) == (bob.id, "active", "laptop")
    told = [
        entry for entry in stage.broker.ledger.tail(-1, 1000, [], None)
        if entry.facts and entry.facts.get("authenticator") == bob.id
    ]  # fmt: skip
    assert [entry.kind for entry in told] == ["authenticator.proposed", "authenticator.approved"]
    assert all(entry.facts and entry.facts["fingerprint"] == made["fingerprint"] for entry in told)
    assert told[1].facts
    assert told[1].facts["reason"] == "handed over in person"
    assert str(told[1].facts["by"]).startswith("uid ")


async def test_a_denial_ends_the_step_and_freezes_the_transaction(stage: ApprovalStage) -> None:
    news, alice = await stage.asked(args={"n": "denied"}), await alice_of(stage)
    assert (await alice.deny(news["id"], freeze=True)).ok()["state"] == "denied"
    assert (await stage.polled(news)).code in ("access_denied", "frozen")
    assert any(
        mark["target"].startswith("txn:") for mark in (await stage.admin("GET", "/v1/admin/marks")).body[""]
    )
    assert (await alice.sign(news["id"])).status >= 400


# --- what is no signature for it


FORGED: dict[str, Any] = {
    "over another digest": lambda a, s: a.said(s, digest=args_digest({"x": 1})),
    "over another approval's id": lambda a, s: a.said(s, approval="apr_100" + "0" * 26),
    "over another attempt": lambda a, s: a.said(s, attempt=b64u(bytes(40))),
    "for another broker": lambda a, s: a.said(s, issuer="https://evil.example"),
    "in another key's name": lambda a, s: a.said(s, key="aut_" + "A" * 43),
    "over the digest alone": lambda a, s: s["digest"].encode(),
    "over the challenge of other methods": lambda a, s: unb64u(s["digest"]),
    "over the document": lambda a, s: json.dumps(s["document"]).encode(),
    "over a statement with more in it": lambda a, s: a.said(s)[:-1] + b',"z":1}',
    "over a statement with a line break behind": lambda a, s: a.said(s) + b"\n",
    "over a request": lambda a, s: request_statement(
        key=a.id, method="GET", url=ISSUER, body="", at=int(time.time()), jti="j" * 16, nonce=""
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", FORGED)
async def test_only_the_statement_counts(stage: ApprovalStage, which: str) -> None:
    news, alice = await stage.asked(args={"n": which}), await alice_of(stage)
    shown = (await alice.show(news["id"])).ok()
    forged = raw_signature(alice.private, FORGED[which](alice, shown))
    reply = await alice.hand_in(news["id"], shown["attempt"], forged)
    assert (reply.status, reply.code, reply.refusal["rule"]) == (401, "invalid_proof", "signature")
    assert (await stage.polled(news)).code == "authorization_pending"
    right = raw_signature(alice.private, alice.said(shown))
    assert (await alice.hand_in(news["id"], shown["attempt"], right)).ok()["state"] == "given"


async def test_neither_a_key_proof_nor_an_id_token_passes_as_a_signature(stage: ApprovalStage) -> None:
    news, alice = await stage.asked(), await Approver.registered(stage, "alice", kind="p256")
    shown = (await alice.show(news["id"])).ok()
    key = SigningKey(alice.private)  # type: ignore[arg-type]  the same key, used for DPoP
    proof = make_proof(
        key, "POST", f"{ISSUER}/v1/approvals/{news['id']}/signatures", time.time(), shown["digest"]
    )
    token = stage.issuer.mint("alice", client_id="chat-app", nonce=shown["digest"])
    for jws in (proof, token):
        own = unb64u(jws.rpartition(".")[2])
        for signature in (own, jws.encode(), raw_signature(alice.private, jws.rpartition(".")[0].encode())):
            reply = await alice.hand_in(news["id"], shown["attempt"], signature)
            assert (reply.status, reply.code) == (401, "invalid_proof")
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


async def test_approve_a_run_b(stage: ApprovalStage) -> None:
    one, other = await stage.asked(args={"to": "bob"}), await stage.asked(args={"to": "eve"})
    alice = await alice_of(stage)
    shown, theirs = (await alice.show(one["id"])).ok(), (await alice.show(other["id"])).ok()
    signature = raw_signature(alice.private, alice.said(shown))
    for attempt in (shown["attempt"], theirs["attempt"]):
        assert (await alice.hand_in(other["id"], attempt, signature)).code == "invalid_proof"
    mixed = raw_signature(alice.private, alice.said(shown, approval=other["id"], attempt=theirs["attempt"]))
    assert (await alice.hand_in(other["id"], theirs["attempt"], mixed)).code == "invalid_proof"
    assert (await alice.hand_in(one["id"], shown["attempt"], signature)).ok()["state"] == "given"
    assert (await stage.polled(other)).code == "authorization_pending"
    (await alice.deny(other["id"])).ok()


async def test_a_signature_serves_once(stage: ApprovalStage) -> None:
    news, bob = await stage.asked("pair"), await Approver.registered(stage, "bob")
    shown = (await bob.show(news["id"])).ok()
    signature = raw_signature(bob.private, bob.said(shown))
    assert (await bob.hand_in(news["id"], shown["attempt"], signature)).ok()["state"] == "asked"
    again = await bob.hand_in(news["id"], shown["attempt"], signature)
    assert (again.status, again.code) == (403, "replay")
    (await bob.deny(news["id"])).ok()


async def test_an_attempt_takes_five_minutes_at_most(stage: ApprovalStage) -> None:
    news, alice = await stage.asked(), await alice_of(stage)
    shown = (await alice.show(news["id"])).ok()
    stage.pass_time(301)
    signature = raw_signature(alice.private, alice.said(shown))
    late = await alice.hand_in(news["id"], shown["attempt"], signature)
    assert (late.code, late.refusal["rule"]) == ("invalid_proof", "nonce")
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


# --- who may not


async def test_a_key_that_was_retired_in_between_signs_nothing(stage: ApprovalStage) -> None:
    from stepwrit_broker.ports_approval import DecideCommand

    news, alice, other = await stage.asked(), await alice_of(stage), await alice_of(stage)
    shown = (await alice.show(news["id"])).ok()
    command = DecideCommand(
        authenticator=alice.id, verb="retire", by="ops", reason="lost", who="per_x", ref="R", now=stage.now()
    )
    await stage.broker.house.approvals.decide(command)
    signature = raw_signature(alice.private, alice.said(shown))
    gone = await alice.hand_in(news["id"], shown["attempt"], signature)
    assert (gone.status, gone.code, gone.refusal["rule"]) == (401, "invalid_proof", "authenticator")
    assert (await alice.show(news["id"])).status == 401
    assert (await other.sign(news["id"])).ok()["state"] == "given"


async def test_a_key_that_nobody_registered_sees_and_signs_nothing(stage: ApprovalStage) -> None:
    news, alice, eve = await stage.asked(), await alice_of(stage), Approver(stage=stage)
    shown = (await alice.show(news["id"])).ok()
    assert (await eve.show(news["id"])).status == 401
    assert (await eve.waiting()).status == 401
    own = raw_signature(eve.private, eve.said(shown))
    assert (await eve.hand_in(news["id"], shown["attempt"], own)).code == "invalid_proof"
    in_her_name = raw_signature(eve.private, alice.said(shown))
    named = await eve.hand_in(news["id"], shown["attempt"], in_her_name, key=alice.id)
    assert (named.code, named.refusal["rule"]) == ("invalid_proof", "signature")
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


async def test_to_whoever_may_not_sign_there_is_no_such_approval(stage: ApprovalStage) -> None:
    news, alice, carol = await stage.asked(), await alice_of(stage), await Approver.registered(stage, "carol")
    stranger = await Approver.registered(stage, issuer=OTHER_IDP, subject=f"s-{time.monotonic_ns()}")
    (await alice.show(news["id"])).ok()
    for who in (carol, stranger):
        missing = (await who.show("apr_100" + "0" * 26)).refusal
        for reply in (await who.show(news["id"]), await who.deny(news["id"])):
            assert reply.status == 404
            assert {**reply.refusal, "ref": ""} == {**missing, "ref": ""}
        assert news["id"] not in (await who.waiting()).raw.decode()
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


async def test_what_the_owner_of_a_key_was_refused_is_on_record_and_a_strangers_try_is_not(
    stage: ApprovalStage,
) -> None:
    news, carol, eve = await stage.asked(), await Approver.registered(stage, "carol"), Approver(stage=stage)
    ref = (await carol.show(news["id"])).refusal["ref"]
    (entry,) = stage.on_record(ref)
    assert entry.facts
    facts = entry.facts
    assert (entry.kind, facts["code"], facts["role"], facts["approval"]) == (
        "refused", "not_found", "person", news["id"],
    )  # fmt: skip
    assert "carol" not in repr(facts)
    (entry,) = stage.on_record((await carol.show("x" * 2000)).refusal["ref"])
    assert entry.facts
    assert entry.facts["approval"] == "", "what is no name is not kept"
    assert "ref" not in (await eve.show(news["id"])).refusal
    pair, bob = await stage.asked("pair"), await Approver.registered(stage, "bob")
    shown = (await bob.show(pair["id"])).ok()
    (await bob.hand_in_own(shown)).ok()
    again = (await bob.hand_in_own(shown)).refusal
    (entry,) = stage.on_record(again["ref"])
    assert entry.facts
    assert (entry.facts["code"], entry.facts["verb"]) == ("replay", "approve")


async def test_whoever_knows_a_key_id_alone_learns_nothing_of_whose_an_approval_is(
    stage: ApprovalStage,
) -> None:
    """The ids of keys are in the ledger: handing something in with one proves nothing."""
    news, alice, carol = await stage.asked(), await alice_of(stage), await Approver.registered(stage, "carol")
    shown, nobody = (await alice.show(news["id"])).ok(), Approver(stage=stage)
    signature = raw_signature(nobody.private, b"x")
    answers = [
        await nobody.hand_in(name, b64u(attempt), signature, key=key)
        for name in (news["id"], "apr_100" + "0" * 26, "apr_x")
        for key in (alice.id, carol.id)
        for attempt in (bytes(40), b"")
    ]
    assert {each.status for each in answers} == {401}
    assert len({json.dumps(each.refusal, sort_keys=True) for each in answers}) == 1
    theirs = await carol.hand_in_own(shown)
    assert (theirs.status, theirs.refusal) == (401, answers[0].refusal)
    assert (await alice.hand_in_own(shown)).ok()["state"] == "given"


async def test_the_attempt_of_one_person_is_not_anothers(stage: ApprovalStage) -> None:
    news = await stage.asked("pair")
    bob, carol = await Approver.registered(stage, "bob"), await Approver.registered(stage, "carol")
    theirs = (await bob.show(news["id"])).ok()
    reply = await carol.hand_in(
        news["id"], theirs["attempt"], raw_signature(carol.private, carol.said(theirs))
    )
    assert (reply.code, reply.refusal["rule"]) == ("invalid_proof", "nonce")
    assert (await carol.sign(news["id"])).ok()["state"] == "asked"
    assert (await bob.sign(news["id"])).ok()["state"] == "given"


async def test_the_requester_cannot_approve_where_that_is_forbidden(stage: ApprovalStage) -> None:
    news, alice, bob = (
        await stage.asked("others"),
        await alice_of(stage),
        await Approver.registered(stage, "bob"),
    )
    assert (await alice.show(news["id"])).status == (await alice.deny(news["id"])).status == 404
    theirs = (await bob.show(news["id"])).ok()
    reply = await alice.hand_in(
        news["id"], theirs["attempt"], raw_signature(alice.private, alice.said(theirs))
    )
    assert (reply.status, reply.code) == (401, "invalid_proof")
    assert (await bob.sign(news["id"])).ok()["state"] == "given"


async def test_two_keys_and_two_identities_of_one_person_are_one_signature(stage: ApprovalStage) -> None:
    news = await stage.asked("pair")
    bob, again = await Approver.registered(stage, "bob"), await Approver.registered(stage, "bob", kind="p256")
    robert = await Approver.registered(stage, issuer=OTHER_IDP, subject="robert")
    assert (await bob.sign(news["id"])).ok()["state"] == "asked"
    assert (await again.sign(news["id"])).code == "wrong_state"
    assert (await robert.sign(news["id"])).ok()["state"] == "asked"
    assert (await stage.polled(news)).code == "authorization_pending"
    carol = await Approver.registered(stage, "carol")
    assert (await carol.sign(news["id"])).ok()["state"] == "given"


# --- what is digested


TWINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "normal form": (
        {"to": unicodedata.normalize("NFC", "José")},
        {"to": unicodedata.normalize("NFD", "José")},
    ),
    "number and text": ({"n": 1}, {"n": "1"}),
    "one and true": ({"n": 1}, {"n": True}),
    "nothing and null": ({"n": 1}, {"n": 1, "m": None}),
    "case of a name": ({"To": "bob"}, {"to": "bob"}),
    "list and its element": ({"to": ["bob"]}, {"to": "bob"}),
    "look-alike": ({"to": "bob"}, {"to": "b\u043eb"}),
}


@pytest.mark.parametrize("which", TWINS)
async def test_arguments_that_differ_have_digests_that_differ(stage: ApprovalStage, which: str) -> None:
    one, other = [await stage.asked(args=args) for args in TWINS[which]]
    alice = await alice_of(stage)
    shown, theirs = (await alice.show(one["id"])).ok(), (await alice.show(other["id"])).ok()
    assert shown["document"]["args"] != theirs["document"]["args"]
    assert shown["text"] != theirs["text"], "a person can tell them apart"
    assert (await alice.sign(one["id"])).ok()["state"] == "given"
    assert (await stage.polled(other)).code == "authorization_pending"
    (await alice.deny(other["id"])).ok()


@pytest.mark.parametrize("raws", [('{"a":1,"b":2}', '{"b":2,"a":1}'), ('{"a":1}', '{"a":1.0}')])
async def test_arguments_that_are_the_same_have_one_digest(
    stage: ApprovalStage, raws: tuple[str, str]
) -> None:
    one, other = [await stage.asked(args=json.loads(raw)) for raw in raws]
    alice = await alice_of(stage)
    shown, theirs = (await alice.show(one["id"])).ok(), (await alice.show(other["id"])).ok()
    assert shown["document"]["args"] == theirs["document"]["args"]
    assert shown["digest"] != theirs["digest"], "two steps are two approvals, whatever their arguments"
    for news in (one, other):
        (await alice.deny(news["id"])).ok()


# --- requests that prove the key


REQUESTS: dict[str, dict[str, Any]] = {
    "of another method": {"method": "POST"},
    "of another path": {"url": f"{ISSUER}/v1/approvals"},
    "of another broker": {"url": "https://evil.example/v1/approvals/x"},
    "with another body": {"body": "A" * 43},
    "of an hour ago": {"at": int(time.time()) - 3600},
    "of the future": {"at": int(time.time()) + 3600},
    "with a time that is text": {"at": str(int(time.time()))},
    "without a nonce": {"nonce": ""},
    "with a nonce of nobody": {"nonce": b64u(bytes(24))},
    "in another key's name": {"key": "aut_" + "A" * 43},
    "with a short jti": {"jti": "1"},
}


@pytest.mark.parametrize("which", REQUESTS)
async def test_a_statement_is_about_this_request_and_fresh(stage: ApprovalStage, which: str) -> None:
    news, alice = await stage.asked(args={"n": which}), await alice_of(stage)
    path = f"/v1/approvals/{news['id']}"
    said = await alice.statement("GET", path, b"", **REQUESTS[which])
    reply = await alice.send("GET", path, token=alice.token(said))
    assert (reply.status, reply.code) == (401, "invalid_proof")
    assert reply.headers["www-authenticate"] == "Stepwrit-Key"
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


async def test_a_request_is_proved_once(stage: ApprovalStage) -> None:
    alice = await alice_of(stage)
    token = alice.token(await alice.statement("GET", "/v1/approvals", b""))
    (await alice.send("GET", "/v1/approvals", token=token)).ok()
    assert (await alice.send("GET", "/v1/approvals", token=token)).code == "replay"


async def test_an_approver_who_asks_without_end_keeps_nobody_out(
    stage: ApprovalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvers, "SEEN_MAX", 3)
    alice, bob = await alice_of(stage), await Approver.registered(stage, "bob")
    for _ in range(3):
        (await alice.waiting()).ok()
    for _ in range(3):
        over = await alice.waiting()
        assert (over.code, over.headers["retry-after"]) == ("limit", "30")
    (await bob.waiting()).ok()
    stage.pass_time(200)
    (await alice.waiting()).ok()


async def test_a_signature_over_an_approval_proves_no_request(stage: ApprovalStage) -> None:
    news, alice = await stage.asked(), await alice_of(stage)
    shown = (await alice.show(news["id"])).ok()
    said = alice.said(shown)
    reply = await alice.send("GET", "/v1/approvals", token=alice.token(said))
    assert (reply.status, reply.refusal["rule"]) == (401, "statement")
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


@pytest.mark.parametrize(
    "token",
    ["", "Bearer x", "Stepwrit-Key", "Stepwrit-Key .", "Stepwrit-Key %%.%%", "Stepwrit-Key " + "A" * 9000],
)
async def test_what_is_no_statement_is_answered_with_a_nonce_and_nothing_else(
    stage: ApprovalStage, token: str
) -> None:
    alice = await alice_of(stage)
    reply = await alice.send("GET", "/v1/approvals", token=token)
    assert (reply.status, reply.code) == (401, "invalid_proof")
    assert reply.headers["stepwrit-nonce"]
    (await alice.waiting()).ok()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"v":1}', b'{"v":1,"v":1}', b"\xff", b'{"v":9,"reason":"x"}'])
async def test_a_body_of_no_shape_changes_nothing(stage: ApprovalStage, body: bytes) -> None:
    news, alice = await stage.asked(), await alice_of(stage)
    path = f"/v1/approvals/{news['id']}/signatures"
    assert (await alice.send("POST", path, body, token="")).status == 400
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("DELETE", "/x"), ("POST", "/x"), ("GET", "/x/signatures"), ("POST", "/x/signatures/y")],
)
async def test_what_is_no_route_is_not_found(stage: ApprovalStage, method: str, path: str) -> None:
    alice = await alice_of(stage)
    reply = await alice.send(method, f"/v1/approvals{path}", b"{}")
    assert (reply.status, reply.code) == (404, "not_found")
    (await alice.waiting()).ok()


async def test_signatures_that_are_not_base64url_are_no_shape(stage: ApprovalStage) -> None:
    news, alice = await stage.asked(), await alice_of(stage)
    path = f"/v1/approvals/{news['id']}/signatures"
    for attempt, signature in (("%", "AA"), ("AA", "%"), ("AA==", "AA")):
        body = {"v": 1, "key": alice.id, "attempt": attempt, "signature": signature}
        reply = await alice.send("POST", path, json.dumps(body).encode(), token="")
        assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await alice.sign(news["id"])).ok()["state"] == "given"


# --- registration

PRIVATE = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"


async def test_one_key_is_one_persons(stage: ApprovalStage) -> None:
    bob = await Approver.registered(stage, "bob")
    for person in ("bob", "carol"):
        again = await bob.register(person=person)
        assert (again.status, again.code) == (409, "wrong_state")
    assert (await bob.waiting()).ok()


async def test_adding_a_key_goes_on_where_it_was_interrupted(stage: ApprovalStage) -> None:
    from stepwrit_broker.core.authenticator import Authenticator
    from stepwrit_broker.core.persons import Identity
    from stepwrit_broker.ports import Evidence
    from stepwrit_broker.ports_approval import ProposeCommand

    bob, owner = Approver(stage=stage), Identity(stage.issuer.url, "bob")
    half = Authenticator(
        id=bob.id, owner=owner, kind="key", public_key=jwk_of(bob.private.public_key()), label="half"
    )
    await stage.broker.house.approvals.propose(
        ProposeCommand(
            authenticator=half, who="per_x", proofs=(), evidence=Evidence(), ref="R", now=stage.now()
        )
    )
    assert (await bob.waiting()).status == 401
    assert (await bob.register(person="carol")).code == "wrong_state"
    made = (await bob.register(issuer=owner.issuer, subject=owner.subject)).ok()
    assert (made["state"], made["label"]) == ("active", "half")
    (await bob.waiting()).ok()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"person": "nobody"}, "not_registered"),
        ({}, "invalid_request"),
        ({"person": "bob", "issuer": "https://idp.example", "subject": "x"}, "invalid_request"),
        ({"issuer": "https://idp.example"}, "invalid_request"),
        ({"person": "bob", "key": "ssh-rsa AAAA"}, "invalid_request"),
        ({"person": "bob", "key": PRIVATE}, "invalid_request"),
        ({"person": "bob", "reason": ""}, "invalid_request"),
    ],
)  # fmt: skip
async def test_a_key_is_registered_for_somebody_or_not_at_all(
    stage: ApprovalStage, body: dict[str, Any], code: str
) -> None:
    reply = await Approver(stage=stage).register(**body)
    assert reply.code == code
    await Approver.registered(stage, "bob")


async def test_an_operator_of_one_tenant_registers_no_approvers(stage: ApprovalStage) -> None:
    blue, ops = await stage.actors("operator/blue", "operator/ops")
    who = Approver(stage=stage)
    body = {"person": "bob", "key": who.public_pem, "reason": "mine"}
    refused(stage, await blue.json("/v1/admin/authenticators", body), "wrong_workload")
    refused(stage, await ops.json("/v1/admin/authenticators", body), "wrong_workload")
    (await who.register(person="bob")).ok()

"""Approvals from the asking to the use, with real signatures of all kinds, verified from the log alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from tests.fakes.approver import new_key, raw_signature
from tests.fakes.passkey import SoftPasskey
from tests.flows.rig import IDP, ISSUER, Rig
from tests.flows.test_approvals import LISTED, asked, poll

from stepwrit.digest import b64u, body_digest, unb64u
from stepwrit.jws import SigningKey
from stepwrit_broker.approvals.audit import Audit, Audited
from stepwrit_broker.approvals.keys import jwk_of
from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.cli.render import lineage_tree
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator, key_id
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.statement import approval_statement
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Permit
from stepwrit_broker.flows import approving
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import Evidence, KeptDecision, LoggedEntry
from stepwrit_broker.ports_approval import DecideCommand, Given, ProposeCommand

ALICE, BOB = Identity(IDP, "alice"), Identity(IDP, "bob")
METHODS = ("webauthn", "key", "oidc")
IDP_KEY = SigningKey.generate(kid="idp-1")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


# --- persons who sign, each as the adapters hand it over


async def _register(
    rig: Rig, who: Identity, name: str, kind: Any, public_key: str, credential: str = ""
) -> None:
    made = Authenticator(id=name, owner=who, kind=kind, public_key=public_key, credential=credential)
    now, opaque = rig.clock.time, rig.house.opaque(who)
    await rig.store.approvals.propose(
        ProposeCommand(
            authenticator=made, who=opaque, proofs=(), evidence=Evidence(), ref=rig.house.ref(), now=now
        )
    )
    await rig.store.approvals.decide(
        DecideCommand(
            authenticator=name,
            verb="approve",
            by="uid 0",
            reason="seen",
            who=opaque,
            ref=rig.house.ref(),
            now=now,
        )
    )


async def by_webauthn(rig: Rig, record: ApprovalRecord, who: Identity) -> Given:
    rp = WebAuthn(ISSUER)
    passkey = SoftPasskey(origin=rp.origin, rp_id=rp.rp_id)
    new = rp.registered(passkey.make(rp.creation(b"c" * 32, handle=b"h", name="n", known=())), b"c" * 32)
    name = f"aut_{rig.house.ref()}"
    await _register(rig, who, name, "passkey", new.public_key, new.credential)
    attempt = await approving.begin(rig.house, who, record.asked.id)
    shown = rp.asserted(passkey.sign(rp.request(attempt.challenge, [])), attempt.challenge, new.public_key)
    evidence = {**shown.evidence, "nonce": b64u(attempt.nonce)}
    return Given(
        by=who,
        method="webauthn",
        digest=record.asked.digest,
        authenticator=name,
        sign_count=1,
        evidence=evidence,
    )


async def by_key(rig: Rig, record: ApprovalRecord, who: Identity) -> Given:
    private = new_key()
    public_key = jwk_of(private.public_key())
    name = key_id(public_key)
    await _register(rig, who, name, "key", public_key)
    attempt = await approving.begin(rig.house, who, record.asked.id)
    said = approval_statement(
        issuer=ISSUER,
        approval=record.asked.id,
        key=name,
        attempt=b64u(attempt.nonce),
        digest=record.asked.digest,
    )
    evidence = {
        "statement": said.decode(),
        "signature": b64u(raw_signature(private, said)),
        "public_key": public_key,
    }
    return Given(by=who, method="key", digest=record.asked.digest, authenticator=name, evidence=evidence)


async def by_oidc(rig: Rig, record: ApprovalRecord, who: Identity) -> Given:
    attempt = await approving.begin(rig.house, who, record.asked.id)
    claims = {
        "iss": who.issuer,
        "sub": who.subject,
        "aud": "pages",
        "nonce": b64u(attempt.challenge),
        "acr": "phr",
        "auth_time": int(rig.clock.time),
        "exp": int(rig.clock.time) + 60,
    }
    token = IDP_KEY.sign("JWT", claims)
    evidence: dict[str, object] = {
        "nonce": b64u(attempt.nonce),
        "claim": b64u(attempt.challenge),
        "issuer": who.issuer,
        "client_id": "pages",
        "acr": "phr",
        "auth_time": claims["auth_time"],
        "id_token": body_digest(token.encode()),
        "key": dict(IDP_KEY.published_jwk),
    }
    return Given(
        by=who,
        method="oidc",
        digest=record.asked.digest,
        authenticator=None,
        evidence=evidence,
        kept={"id_token": token},
    )


SIGN = {"webauthn": by_webauthn, "key": by_key, "oidc": by_oidc}


async def used(rig: Rig, *methods: str, terms: Terms | None = None) -> ApprovalRecord:
    """Asked by a model for alice, signed by her and by bob as they sign, and run."""
    record = await asked(rig, await rig.start(), "mail/pay", terms or Terms())
    for method, who in zip(methods, (ALICE, BOB), strict=False):
        await approving.sign(rig.house, record.asked.id, await SIGN[method](rig, record, who))
    rig.clock.time += 6
    await rig.take(await poll(rig, record))
    return record


def audited(
    rig: Rig, change: Callable[[LoggedEntry], LoggedEntry | None] | None = None, **how: Any
) -> Audited:
    """The one approval of the log; change: what somebody did to an entry who could also sign the log."""
    with closing(SqliteLedgerView(rig.path)) as view:
        entries = [change(each) if change else each for each in view.every()]
        documents = how.pop("documents", view)
        audit = Audit(documents, issuer=how.pop("issuer", ISSUER), is_whole=how.pop("is_whole", True))
        [found] = audit.run([each for each in entries if each is not None])
    return found


def faults(told: Audited, verdict: str = "fails") -> str:
    return "; ".join(each.what for each in told.findings if each.verdict == verdict)


def changing(kind: str, **facts: Any) -> Callable[[LoggedEntry], LoggedEntry]:
    """Every entry of this kind says something else. `evidence`: only these members of it."""

    def change(entry: LoggedEntry) -> LoggedEntry:
        if entry.kind != kind or entry.facts is None:
            return entry
        said = dict(entry.facts)
        new = dict(facts)
        if "evidence" in new:
            old = cast("Mapping[str, object]", said["evidence"])
            new["evidence"] = {
                **old,
                **{k: v(old[k]) if callable(v) else v for k, v in new["evidence"].items()},
            }
        return replace(entry, facts={**said, **new})

    return change


def without(kind: str) -> Callable[[LoggedEntry], LoggedEntry | None]:
    return lambda entry: None if entry.kind == kind else entry


@dataclass
class Gone:
    """Documents and salts that were erased."""

    proved_as: str = "erased"

    def proved(self, _entry: LoggedEntry) -> KeptDecision:
        return KeptDecision(proved=cast("Any", self.proved_as))

    def salt(self, _txn: str) -> bytes | None:
        return None


# --- the right way


@pytest.mark.parametrize("method", METHODS)
async def test_an_approval_that_was_asked_signed_given_and_used_holds(rig: Rig, method: str) -> None:
    record = await used(rig, method)
    told = audited(rig)
    assert (told.verdict, told.state, told.signed) == ("holds", "used", 1)
    assert told.digest == record.asked.digest
    assert [each.verdict for each in told.findings] == ["holds"] * 3


async def test_two_of_two_by_two_methods_hold(rig: Rig) -> None:
    both = Terms(count=2, persons=frozenset({"bob"}))
    await used(rig, "webauthn", "key", terms=both)
    told = audited(rig)
    assert (told.verdict, told.signed) == ("holds", 2)
    assert "2 signed, 2 demanded" in faults(told, "holds")


async def test_what_a_person_or_an_operator_ended_holds_too(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await approving.deny(rig.house, ALICE, record.asked.id, "no")
    assert (audited(rig).verdict, audited(rig).state) == ("holds", "denied")


# --- what is erased


@pytest.mark.parametrize("method", METHODS)
async def test_without_documents_the_signature_still_holds_over_the_digest(rig: Rig, method: str) -> None:
    await used(rig, method)
    told = audited(rig, documents=Gone())
    assert (told.verdict, told.signed) == ("unknown", 1)
    assert "known by its digest only" in faults(told, "unknown")
    expected = "the ID token is gone" if method == "oidc" else "the salt is gone"
    assert expected in faults(told, "unknown")
    assert not faults(told)


async def test_a_part_of_the_log_says_what_it_cannot_know(rig: Rig) -> None:
    await used(rig, "key")
    told = audited(rig, lambda each: None if each.kind.startswith("authenticator.") else each, is_whole=False)
    assert told.verdict == "unknown"
    assert "stands in an earlier part" in faults(told, "unknown")
    whole = audited(rig, lambda each: None if each.kind.startswith("authenticator.") else each)
    assert "was never approved by an operator" in faults(whole)


async def test_without_an_issuer_the_evidence_names_it(rig: Rig) -> None:
    await used(rig, "webauthn")
    assert audited(rig, issuer=None).verdict == "holds"
    assert "signed on a page of https://broker.example" in faults(
        audited(rig, issuer="https://other.example")
    )


# --- what was changed: by somebody who could also sign the log


def flipped(value: str) -> str:
    raw = bytearray(unb64u(value))
    raw[len(raw) // 2] ^= 1
    return b64u(bytes(raw))


def client(**changes: Any) -> Callable[[str], str]:
    return lambda value: b64u(json.dumps({**json.loads(unb64u(value)), **changes}).encode())


def unverified(value: str) -> str:
    raw = bytearray(unb64u(value))
    raw[32] &= ~4
    return b64u(bytes(raw))


def other_site(value: str) -> str:
    return b64u(hashlib.sha256(b"evil.example").digest() + unb64u(value)[32:])


OTHER_DIGEST = b64u(hashlib.sha256(b"another").digest())
TAMPERED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another signature": ("webauthn", {"signature": flipped}, "not of this key over this"),
    "another nonce": ("webauthn", {"nonce": flipped}, "another challenge"),
    "another challenge": ("webauthn", {"client_data": client(challenge=OTHER_DIGEST)}, "another challenge"),
    "another ceremony": ("webauthn", {"client_data": client(type="webauthn.create")}, "something else"),
    "from a frame": ("webauthn", {"client_data": client(crossOrigin=True)}, "within another page"),
    "another origin": ("webauthn", {"client_data": client(origin="https://evil.example")}, "page of https://evil"),
    "another site": ("webauthn", {"authenticator_data": other_site}, "another site"),
    "nobody verified": ("webauthn", {"authenticator_data": unverified}, "nobody was verified"),
    "cut off": ("webauthn", {"authenticator_data": "AAAA"}, "another site"),
    "no client data": ("webauthn", {"client_data": 7}, "has no client_data"),
    "another raw signature": ("key", {"signature": flipped}, "does not hold"),
    "another statement": (
        "key",
        {"statement": lambda said: said.replace("approval.stepwrit.dev v1", "request.stepwrit.dev v1")},
        "the statement is",
    ),
    "another broker": (
        "key", {"statement": lambda said: said.replace(ISSUER, "https://other.example")}, "another broker",
    ),
    "another claim": ("oidc", {"claim": OTHER_DIGEST}, "not that of this digest"),
    "another attempt": ("oidc", {"nonce": flipped}, "not that of this digest"),
    "another token": ("oidc", {"id_token": OTHER_DIGEST}, "not the one that was shown"),
    "another issuer": ("oidc", {"issuer": "https://evil.example"}, "another iss"),
    "a stronger sign-in": ("oidc", {"acr": "phrh"}, "another acr"),
    "another time": ("oidc", {"auth_time": 1}, "another auth_time"),
    "another client": ("oidc", {"client_id": "chat"}, "another sign-in"),
    "another issuer's key": (
        "oidc", {"key": dict(SigningKey.generate(kid="idp-1").published_jwk)}, "not signed by that key",
    ),
    "no key": ("oidc", {"key": None}, "the issuer's key is not in the entry"),
}  # fmt: skip


@pytest.mark.parametrize("which", TAMPERED)
async def test_evidence_that_was_changed_does_not_hold(rig: Rig, which: str) -> None:
    method, change, why = TAMPERED[which]
    await used(rig, method)
    assert audited(rig).verdict == "holds"
    told = audited(rig, changing("approval.signed", evidence=change))
    assert (told.verdict, told.signed) == ("fails", 0)
    assert why in faults(told)
    assert "given with 0 of 1 signatures that hold" in faults(told)


@pytest.mark.parametrize("method", ["webauthn", "key"])
async def test_a_key_of_somebody_else_does_not_hold(rig: Rig, method: str) -> None:
    await used(rig, method)
    rig.policy.says = Permit(policies=("p1",))
    other = await asked(rig, await rig.start(), "mail/note", Terms(persons=frozenset({"bob"})))
    theirs = await SIGN[method](rig, other, BOB)
    evidence = dict(theirs.evidence)
    swapped = audited_first(rig, changing("approval.signed", evidence={"public_key": evidence["public_key"]}))
    assert swapped.verdict == "fails"
    named = audited_first(rig, changing("approval.signed", authenticator=theirs.authenticator))
    assert named.verdict == "fails"
    attributed = audited_first(rig, changing("approval.signed", who="0" * 64))
    assert "the person named is not the key's owner" in faults(attributed)
    assert audited_first(rig).verdict == "holds"


def audited_first(rig: Rig, change: Callable[[LoggedEntry], LoggedEntry | None] | None = None) -> Audited:
    with closing(SqliteLedgerView(rig.path)) as view:
        entries = [change(each) if change else each for each in view.every()]
        return Audit(view, issuer=ISSUER, is_whole=True).run([each for each in entries if each])[0]


@pytest.mark.parametrize("method", METHODS)
async def test_a_signature_over_another_approval_does_not_count(rig: Rig, method: str) -> None:
    """approve A, run B: with the log's own key in hand."""
    await used(rig, method)
    told = audited(rig, changing("approval.asked", digest=OTHER_DIGEST))
    assert told.verdict == "fails"
    assert "the digest is not that of the document" in faults(told)
    assert told.signed == 0


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ("approval.signed", "given with 0 of 1"),
        ("approval.given", "accepted before the approval was given"),
        ("approval.used", "its step ran, and the approval is still given"),
        ("authenticator.approved", "never approved by an operator"),
        ("authenticator.proposed", "never approved by an operator"),
    ],
)
async def test_a_story_with_a_missing_part_does_not_hold(rig: Rig, gone: str, why: str) -> None:
    await used(rig, "key")
    assert audited(rig).verdict == "holds"
    assert why in faults(audited(rig, without(gone)))


async def test_a_story_in_another_order_does_not_hold(rig: Rig) -> None:
    await used(rig, "key")
    with closing(SqliteLedgerView(rig.path)) as view:
        entries = list(view.every())
        kinds = [each.kind for each in entries]
        twice = [*entries, replace(entries[kinds.index("approval.used")], seq=len(entries))]
        [told] = Audit(view, issuer=ISSUER, is_whole=True).run(twice)
        assert "approval.used, though it was used" in faults(told)
        late = [
            replace(each, at=each.at + 10_000) if each.kind == "approval.signed" else each for each in entries
        ]
        [told] = Audit(view, issuer=ISSUER, is_whole=True).run(late)
        assert "signed after it was over" in faults(told)
        retired = entries[kinds.index("authenticator.approved")]
        early = [
            *entries[: retired.seq + 1],
            replace(retired, kind="authenticator.retired"),
            *entries[retired.seq + 1 :],
        ]
        [told] = Audit(view, issuer=ISSUER, is_whole=True).run(early)
        assert "was retired before" in faults(told)


async def test_a_document_that_was_changed_is_none(rig: Rig) -> None:
    await used(rig, "oidc")
    told = audited(rig, documents=Gone("changed"))
    assert "the document beside the log is not the one" in faults(told)
    assert "the ID token beside the log is not the one" in faults(told)


async def test_a_public_key_that_was_changed_where_it_was_proposed_is_found(rig: Rig) -> None:
    await used(rig, "key")
    other = jwk_of(new_key().public_key())
    assert "was never approved" in faults(audited(rig, changing("authenticator.proposed", public_key=other)))


# --- the same, told to people


async def test_explain_tells_who_signed_with_what_and_shows_no_id_token(rig: Rig) -> None:
    both = Terms(count=2, persons=frozenset({"bob"}))
    record = await used(rig, "oidc", "key", terms=both)
    with closing(SqliteLedgerView(rig.path)) as view:
        story = explain(view, record.asked.step.txn, None)
    [root] = cast("list[dict[str, Any]]", story["steps"])
    told = root["children"][0]["approval"]
    assert (told["approval"], told["state"]) == (record.asked.id, "used")
    assert [each["method"] for each in told["signed"]] == ["oidc", "key"]
    assert "eyJ" not in json.dumps(story)
    shown = Console(file=io.StringIO(), width=100, color_system=None, record=True)
    shown.print(lineage_tree(story))
    text = shown.export_text()
    assert f"approval used   {record.asked.id}" in text
    assert "demanded by high-needs-approval: 2 of the requester, bob" in text
    assert "with signing in anew" in text
    assert "with a key (aut_" in text
    assert "alice" not in text.replace("alice of", "")


async def test_explain_tells_a_denial_and_keeps_its_words_apart(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await approving.deny(rig.house, ALICE, record.asked.id, "I was not asked")
    with closing(SqliteLedgerView(rig.path)) as view:
        story = explain(view, record.asked.step.txn, None)
    told = cast("list[dict[str, Any]]", story["steps"])[0]["children"][0]["approval"]
    assert (told["state"], told["reason"]) == ("denied", None)
    shown = Console(file=io.StringIO(), width=100, color_system=None, record=True)
    shown.print(lineage_tree(story))
    assert ": I was not asked" in shown.export_text()
    erased = {**story, "decisions": {}}
    again = Console(file=io.StringIO(), width=100, color_system=None, record=True)
    again.print(lineage_tree(erased))
    text = again.export_text()
    assert "denied" in text
    assert "I was not asked" not in text
    assert "what was signed has been erased" in text

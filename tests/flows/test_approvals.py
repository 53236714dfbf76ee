"""An approval from the asking to the use: what waits, who signs, what it opens, and what it does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.flows.rig import AGENT, ARGS, CRON, FILES, IDP, MAIL, Rig

from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.approval_text import text_digest
from stepwrit_broker.core.errors import Conflict, Problem, Refused, Unproven
from stepwrit_broker.core.limits import ApprovalLimits
from stepwrit_broker.core.obligations import read
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.flows import approving, opening
from stepwrit_broker.flows.attempts import ATTEMPT_S
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports_approval import Given, RefuseCommand, SignCommand, Sought
from stepwrit_broker.store.start import open_store

ALICE, BOB, CAROL = Identity(IDP, "alice"), Identity(IDP, "bob"), Identity(IDP, "carol")
ALICE_TOO = Identity("https://two.example", "a")
LISTED = Persons(
    {"alice": frozenset({ALICE, ALICE_TOO}), "bob": frozenset({BOB}), "carol": frozenset({CAROL})},
    {"alice": "acme", "bob": "acme", "carol": "acme"},
)


def needs(*terms: Terms) -> NeedsApproval:
    return NeedsApproval(policies=("high-needs-approval",), setting="stance", terms=terms or (Terms(),))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


async def refused(rig: Rig, doing: Any, *codes: str) -> Problem:
    """It raises one of `codes`; what is news is no refusal of the ledger."""
    with pytest.raises(Problem) as no:
        await doing
    assert no.value.code in codes
    return no.value


async def asked(
    rig: Rig, root: StepRecord, tool: str = "mail/pay", /, *terms: Terms, **call: Any
) -> ApprovalRecord:
    rig.policy.says = needs(*terms)
    news = await refused(rig, rig.open(root, tool, **call), "authorization_pending")
    assert news.approval is not None
    found = await rig.store.approvals.approval(news.approval.id)
    assert found is not None
    assert (found.state, found.asked.step.id) == ("asked", news.approval.step)
    return found


def given(record: ApprovalRecord, who: Identity = ALICE, **changes: Any) -> Given:
    """What an adapter hands over after it verified a signature."""
    base = Given(
        by=who, method="key", digest=record.asked.digest, authenticator=None, evidence={"signature": "s"}
    )
    return replace(base, **changes)


async def sign(rig: Rig, record: ApprovalRecord, who: Identity = ALICE, **changes: Any) -> ApprovalRecord:
    return await approving.sign(rig.house, record.asked.id, given(record, who, **changes))


async def poll(rig: Rig, record: ApprovalRecord, wait_s: float = 0.0) -> opening.StepReady:
    rig.clock.time += 6
    return await opening.renew_token(rig.house, rig.caller(AGENT), record.asked.step.id, wait_s)


# --- the ordinary way


async def test_a_step_waits_is_signed_runs_and_uses_its_approval_up(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    news = await refused(rig, poll(rig, record), "authorization_pending")
    assert news.approval is not None
    assert news.approval.url == f"https://broker.example/approvals/{record.asked.id}"
    assert news.retry_after == news.approval.interval == 5
    assert (await sign(rig, record)).state == "given"
    ready = await poll(rig, record)
    done = await rig.take(ready)
    used = await rig.store.approvals.approval(record.asked.id)
    assert used is not None
    assert used.state == "used"
    issued = await rig.credential(done.record)
    await rig.spend(issued.credential)
    kinds = [each["kind"] for each in rig.entries() if each["kind"].startswith("approval.")]
    assert kinds == ["approval.asked", "approval.signed", "approval.given", "approval.used"]
    assert not rig.entries("refused"), "waiting is no refusal"
    assert rig.told == ["asked", "given"]


async def test_what_is_in_the_ledger_can_be_recomputed_and_names_no_person(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await sign(rig, record)
    signed = rig.entries("approval.signed")[0]
    assert signed["digest"] == record.asked.digest
    assert signed["evidence"] == {"signature": "s"}
    told = json.dumps(rig.entries())
    assert "alice" not in told
    assert "bob" not in told.replace("mail", ""), "arguments are not in the ledger"


async def test_a_redacted_fact_is_neither_in_the_text_nor_in_the_decision(rig: Rig) -> None:
    shown = await asked(rig, await rig.start())
    assert "Argument /to = “bob”" in ((await approving.view(rig.house, ALICE, shown.asked.id)).text or ())
    rig.policy.says = replace(needs(), obligations=read("p1", "redact", "to"))
    news = await refused(rig, rig.open(await root_of(rig)), "authorization_pending")
    assert news.approval is not None
    seen = await approving.view(rig.house, ALICE, news.approval.id)
    assert seen.text is not None
    assert "Argument /to = (not shown, as policy demands)" in seen.text
    assert "Argument /amount = 5" in seen.text
    with closing(SqliteLedgerView(rig.path)) as view:
        kept = [view.decision(each["decision"]) or {} for each in rig.entries("step.opened")]
    assert [each["document"]["facts"] for each in kept] == [{"to": "bob"}, {}]  # type: ignore[index]
    assert kept[1]["obligations"] == [{"name": "redact", "value": "to", "policy": "p1"}]
    await sign(rig, await rig.store.approvals.approval(news.approval.id))  # type: ignore[arg-type]
    rig.clock.time += 6
    ready = await opening.renew_token(rig.house, rig.caller(AGENT), news.approval.step)
    await rig.credential((await rig.take(ready)).record)
    with closing(SqliteLedgerView(rig.path)) as view:
        issued = view.decision(rig.entries("grant.issued")[-1]["decision"]) or {}
    assert (issued["document"]["facts"], issued["redacted"]) == ({}, ["to"])  # type: ignore[index]


async def root_of(rig: Rig) -> StepRecord:
    """An intent that policy permits, whatever it says of steps."""
    says, rig.policy.says = rig.policy.says, Permit(policies=("p1",))
    root = await rig.start()
    rig.policy.says = says
    return root


async def test_the_text_is_readable_while_it_waits_and_gone_afterwards(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    seen = await approving.view(rig.house, ALICE, record.asked.id)
    assert seen.text is not None
    assert "Argument /to = “bob”" in seen.text
    assert text_digest(seen.text) == record.asked.text
    assert (seen.missing, seen.has_signed) == (1, False)
    raw = rig.path.read_bytes() + rig.path.with_name(rig.path.name + "-wal").read_bytes()
    assert b"Argument /to" not in raw, "sealed in the file"
    await sign(rig, record)
    seen = await approving.view(rig.house, ALICE, record.asked.id)
    assert (seen.missing, seen.has_signed) == (0, True)
    await rig.take(await poll(rig, record))
    assert (await approving.view(rig.house, ALICE, record.asked.id)).text is None


async def test_the_same_operation_again_gets_the_same_approval_then_the_step(rig: Rig) -> None:
    root, op = await rig.start(), rig.op()
    rig.policy.says = needs()

    async def again() -> opening.StepReady:
        rig.clock.time += 6
        return await opening.open_step(rig.house, rig.caller(AGENT), rig.call(root), op, "d")

    first = await refused(rig, again(), "authorization_pending")
    second = await refused(rig, again(), "authorization_pending")
    assert first.approval is not None
    assert second.approval is not None
    assert first.approval.id == second.approval.id
    assert rig.told == ["asked"], "persons are told once"
    record = await rig.store.approvals.approval(first.approval.id)
    assert record is not None
    await sign(rig, record)
    assert (await again()).record.step.id == record.asked.step.id


async def test_a_long_poll_is_answered_when_it_is_signed(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    waiting = asyncio.create_task(poll(rig, record, 20.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await sign(rig, record)
    assert (await asyncio.wait_for(waiting, 5)).record.step.id == record.asked.step.id


async def test_who_asks_too_often_is_told_to_slow_down_more_each_time(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    step = record.asked.step.id

    async def at_once() -> opening.StepReady:
        return await opening.renew_token(rig.house, rig.caller(AGENT), step)

    assert (await refused(rig, at_once(), "slow_down")).retry_after == 10
    assert (await refused(rig, at_once(), "slow_down")).retry_after == 15
    rig.clock.time += 16
    await refused(rig, at_once(), "authorization_pending")
    assert not rig.entries("refused")


# --- who signs


async def test_two_of_three_not_the_requester_alone(rig: Rig) -> None:
    terms = Terms(count=2, persons=frozenset({"bob", "carol"}), alone=False)
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    assert (await sign(rig, record, ALICE)).state == "asked"
    assert (await sign(rig, record, ALICE_TOO)).state == "asked", "two identities are one person"
    await refused(rig, poll(rig, record), "authorization_pending")
    assert (await sign(rig, record, BOB)).state == "given"
    assert len(rig.entries("approval.signed")) == 3
    assert [each["missing"] for each in rig.entries("approval.signed")] == [1, 1, 0]


async def test_a_requester_who_may_not_sign_sees_nothing_and_signs_nothing(rig: Rig) -> None:
    terms = Terms(persons=frozenset({"bob"}), requester=False)
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    assert (await approving.view(rig.house, BOB, record.asked.id)).missing == 1
    for doing in (approving.view(rig.house, ALICE, record.asked.id), sign(rig, record, ALICE)):
        await refused(rig, doing, "not_found")
    assert (await approving.waiting(rig.house, ALICE), len(await approving.waiting(rig.house, BOB))) == (
        [],
        1,
    )


@pytest.mark.parametrize("who", [CAROL, Identity(IDP, "mallory"), Identity("https://evil.example", "alice")])
async def test_a_stranger_finds_no_such_approval(rig: Rig, who: Identity) -> None:
    record = await asked(rig, await rig.start())
    name = record.asked.id
    for doing in (
        approving.view(rig.house, who, name),
        approving.begin(rig.house, who, name),
        approving.deny(rig.house, who, name, "no"),
        sign(rig, record, who),
    ):
        no = await refused(rig, doing, "not_found")
        unknown = await refused(rig, approving.view(rig.house, who, "apr_100" + "A" * 26), "not_found")
        assert no.reason == unknown.reason
    assert (await sign(rig, record)).state == "given"


async def test_the_store_itself_counts_no_stranger_and_no_other_digest(rig: Rig) -> None:
    record = await asked(rig, await rig.start())

    def command(**changes: Any) -> SignCommand:
        mine = given(record, changes.pop("who", ALICE))
        signed = approving.Signed(by=mine.by, digest=changes.pop("digest", mine.digest), at=0.0, method="key")
        return SignCommand(
            approval=record.asked.id,
            signed=signed,
            given=mine,
            who="per_x",
            persons=LISTED,
            ref="AAAAAAAAAA",
            now=rig.clock.time,
        )

    await refused(rig, rig.store.approvals.sign(command(who=CAROL)), "access_denied")
    await refused(rig, rig.store.approvals.sign(command(digest="B" * 43)), "access_denied")
    assert (await rig.store.approvals.sign(command())).state == "given"


# --- what it does not open


async def test_approve_a_run_b_a_twin_has_its_own_approval(rig: Rig) -> None:
    root = await rig.start()
    one, twin = await asked(rig, root), await asked(rig, root)
    assert one.asked.action == twin.asked.action
    assert one.asked.digest != twin.asked.digest
    await sign(rig, one)
    await refused(rig, sign(rig, twin, digest=one.asked.digest), "access_denied")
    await refused(rig, poll(rig, twin), "authorization_pending")
    await poll(rig, one)


async def test_approve_once_use_twice(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await sign(rig, record)
    ready = await poll(rig, record)
    done = await rig.take(ready)
    await refused(rig, rig.take(ready), "replay")
    await rig.spend((await rig.credential(done.record)).credential)
    await refused(rig, rig.credential(done.record), "plan", "limit")
    await refused(rig, sign(rig, record), "wrong_state")


async def test_arguments_that_changed_after_the_approval_do_not_run(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await sign(rig, record)
    ready = await poll(rig, record)
    await refused(rig, rig.take(ready, args="C" * 43), "arguments_changed")
    await rig.take(ready)


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (needs(Terms(persons=frozenset({"bob"}), requester=False)), "approval_required"),
        (needs(Terms(), Terms(count=2, persons=frozenset({"bob"}))), "approval_required"),
        (Deny(policies=("strict",), reason="not any more"), "policy"),
    ],
)
async def test_a_stricter_policy_after_the_approval_holds_at_use(rig: Rig, now: Any, code: str) -> None:
    """Positive control first: what was signed is enough as long as no more is demanded."""
    root = await rig.start()
    one, other = await asked(rig, root), await asked(rig, root)
    for each in (one, other):
        await sign(rig, each)
    running = [(await rig.take(await poll(rig, each))).record for each in (one, other)]
    await rig.credential(running[0])
    rig.policy.says = now
    no = await refused(rig, rig.credential(running[1]), code)
    assert rig.entries("refused")[-1]["ref"] == no.ref
    rig.policy.says = Permit(policies=("lax",))
    await rig.credential(running[1])


async def test_a_stricter_policy_holds_for_a_tool_that_is_its_own_resource(rig: Rig) -> None:
    root = await rig.start()
    one, other = await asked(rig, root, "mail/note"), await asked(rig, root, "mail/note")
    for each in (one, other):
        await sign(rig, each)
    await rig.take(await poll(rig, one))
    rig.policy.says = needs(Terms(persons=frozenset({"bob"}), requester=False))
    ready = await poll(rig, other)
    await refused(rig, rig.take(ready), "approval_required")


async def test_a_step_that_was_opened_without_one_cannot_get_one_later(rig: Rig) -> None:
    step = await rig.accepted()
    await rig.credential(step)
    step = await rig.accepted()
    rig.policy.says = needs()
    await refused(rig, rig.credential(step), "approval_required")


async def test_nothing_is_accepted_before_it_is_signed(rig: Rig) -> None:
    root = await rig.start()
    token = await rig.open(root)
    record = await asked(rig, root)
    stolen = replace(token, record=replace(token.record, step=record.asked.step))
    await refused(rig, rig.take(stolen), "invalid_request")
    await rig.take(token)


# --- its ends


async def test_a_denial_ends_the_step_and_is_told_to_who_asks(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    after = await approving.deny(rig.house, ALICE, record.asked.id, "I did not ask for this")
    assert (after.state, after.reason) == ("denied", "I did not ask for this")
    no = await refused(rig, poll(rig, record), "access_denied")
    assert no.reason == "the approval was denied"
    await refused(rig, sign(rig, record), "access_denied")
    step = await rig.store.step(record.asked.step.id)
    assert step is not None
    assert step.life.state == "cancelled"
    assert [each["kind"] for each in rig.entries()][-3:-1] == ["approval.denied", "step.closed"]


async def test_deny_and_freeze_stops_the_whole_transaction(rig: Rig) -> None:
    root = await rig.start()
    running = (await rig.take(await rig.open(root))).record
    record = await asked(rig, root)
    rig.policy.says = Permit(policies=("p",))
    await rig.credential(running)
    await approving.deny(rig.house, ALICE, record.asked.id, "this agent went mad", freeze=True)
    await refused(rig, rig.credential(running, method="GET", url="https://bank.example/v1/7"), "frozen")
    await refused(rig, rig.open(root), "frozen")
    mark = rig.store.marks()[f"txn:{root.step.txn}"]
    assert (mark.verb, mark.by.startswith("person:per_")) == ("freeze", True)


async def test_time_ends_it_and_a_late_signature_counts_for_nothing(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    rig.clock.time = float(record.asked.expires_at) - 1
    assert (await approving.begin(rig.house, ALICE, record.asked.id)).until > rig.clock.time
    rig.clock.time += 2
    await refused(rig, sign(rig, record), "expired_token")
    await refused(rig, poll(rig, record), "expired_token")
    await rig.store.reap(rig.clock.time)
    ended = await rig.store.approvals.approval(record.asked.id)
    assert ended is not None
    assert (ended.state, await rig.store.approvals.sealed_text(record.asked.id)) == ("expired", None)
    await refused(rig, poll(rig, record), "expired_token")
    await rig.store.reap(rig.clock.time + 4_000)
    assert await rig.store.approvals.approval(record.asked.id) is None, "purged with its step"


async def test_one_given_in_the_last_second_can_still_be_used(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    rig.clock.time = float(record.asked.expires_at) - 1
    await sign(rig, record)
    rig.clock.time += 60
    await rig.store.reap(rig.clock.time)
    await rig.take(await poll(rig, record))


async def test_the_end_of_the_transaction_ends_what_waits_in_it(rig: Rig) -> None:
    root = await rig.start()
    record = await asked(rig, root)
    rig.clock.time = root.step.expires_at + 1
    await rig.store.reap(rig.clock.time)
    ended = await rig.store.approvals.approval(record.asked.id)
    assert ended is not None
    assert ended.state in ("expired", "cancelled")


async def test_an_operator_cancels_in_their_own_tenant_only(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    name = record.asked.id
    await refused(rig, approving.cancel(rig.house, "uid:0", name, "no", tenant="evil"), "not_found")
    await refused(rig, approving.remind(rig.house, name, tenant="evil"), "not_found")
    await approving.remind(rig.house, name, tenant="acme")
    assert rig.told == ["asked", "reminded"]
    assert (await approving.cancel(rig.house, "uid:0", name, "test", tenant="acme")).state == "cancelled"
    await refused(rig, poll(rig, record), "access_denied")
    await refused(rig, approving.cancel(rig.house, "uid:0", name, "again"), "access_denied")


async def test_an_approval_outlives_the_epoch(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await sign(rig, record)
    await rig.store.close()
    rig.store = open_store(rig.path, log=SqliteLog(), entropy=rig.entropy)
    found = await rig.store.approvals.approval(record.asked.id)
    assert found is not None
    assert (found.state, found.asked.digest) == ("given", record.asked.digest)


# --- attempts


async def test_an_attempt_is_of_one_person_one_approval_one_time_and_one_use(rig: Rig) -> None:
    root = await rig.start()
    terms = Terms(persons=frozenset({"bob"}))
    record, other = await asked(rig, root, "mail/pay", terms), await asked(rig, root, "mail/pay", terms)
    attempt = await approving.begin(rig.house, ALICE, record.asked.id)
    challenge, use = await approving.challenge_of(rig.house, ALICE, record.asked.id, attempt.nonce)
    assert challenge == attempt.challenge == record.asked.challenge(attempt.nonce)
    for who, name, nonce in (
        (BOB, record.asked.id, attempt.nonce),
        (ALICE, other.asked.id, attempt.nonce),
        (ALICE, record.asked.id, attempt.nonce[:-1] + bytes([attempt.nonce[-1] ^ 1])),
        (ALICE, record.asked.id, b"\x00" * len(attempt.nonce)),
        (ALICE, record.asked.id, b""),
    ):
        with pytest.raises(Unproven):
            await approving.challenge_of(rig.house, who, name, nonce)
    await refused(rig, sign(rig, other, proofs=(replace(use, until=use.until), use)), "replay")
    await sign(rig, record, proofs=(use,))
    await refused(rig, sign(rig, other, BOB, proofs=(use,)), "replay")
    rig.clock.time += ATTEMPT_S + 1
    with pytest.raises(Unproven, match="took too long"):
        await approving.challenge_of(rig.house, ALICE, record.asked.id, attempt.nonce)


# --- bombing


def bound(rig: Rig, **bounds: Any) -> None:
    limits = replace(rig.settings.limits, approvals=ApprovalLimits(**bounds))
    rig.settings.limits = limits
    rig.store.use(limits, lambda: 0)


async def test_a_person_is_not_asked_at_will(rig: Rig) -> None:
    bound(rig, per_initiator=2)
    root = await rig.start()
    first = await asked(rig, root)
    await asked(rig, root)
    no = await refused(rig, rig.open(root), "limit")
    assert no.rule == "limits v0 approvals.per_initiator"
    await sign(rig, first)
    await asked(rig, root)
    bound(rig, per_requester=2, per_initiator=9)
    assert (await refused(rig, rig.open(root), "limit")).rule == "limits v0 approvals.per_requester"


async def test_after_a_denial_the_same_is_not_asked_again_for_a_while(rig: Rig) -> None:
    bound(rig, cooldown_s=300.0)
    root = await rig.start()
    record = await asked(rig, root)
    await approving.deny(rig.house, ALICE, record.asked.id, "no")
    no = await refused(rig, rig.open(root), "limit")
    assert (no.rule, round(no.retry_after or 0)) == ("limits v0 approvals.cooldown", 300)
    await asked(rig, root, "mail/wipe")
    rig.clock.time += 301
    await asked(rig, root)


async def test_a_refused_asking_leaves_no_step_and_no_count(rig: Rig) -> None:
    bound(rig, per_requester=0)
    root = await rig.start()
    rig.policy.says = needs()
    await refused(rig, rig.open(root), "limit")
    rig.policy.says = Permit(policies=("p",))
    fresh = await rig.store.step(root.step.id)
    assert fresh is not None
    assert fresh.life.children == 0
    await rig.open(root)
    assert await rig.store.approvals.approvals(Sought()) == []


@pytest.mark.parametrize(
    "terms",
    [
        Terms(persons=frozenset({"nobody-listed"}), requester=False),
        Terms(count=2, persons=frozenset({"nobody-listed"})),
        Terms(count=3, persons=frozenset({"bob", "nobody-listed"})),
    ],
)
async def test_what_too_few_persons_could_sign_is_refused_at_once(rig: Rig, terms: Terms) -> None:
    root = await rig.start()
    await asked(rig, root, "mail/pay", Terms(count=2, persons=frozenset({"bob", "nobody-listed"})))
    rig.policy.says = needs(terms)
    no = await refused(rig, rig.open(root), "approval_required")
    assert "`persons` in registry.yaml" in (no.who_can_change_it or "")


async def test_a_triggers_owner_who_is_nowhere_listed_is_not_waited_for(rig: Rig) -> None:
    listed = Persons({**LISTED.links, "team": frozenset({Identity(IDP, "t")})}, LISTED.tenants)
    rig.settings.registry = replace(rig.settings.registry, persons=listed)
    root = await rig.start(CRON)
    await asked(rig, root, who=CRON)
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    await refused(rig, rig.open(root, who=CRON), "approval_required")


# --- parties


async def test_a_servers_step_is_asked_of_the_requester_and_says_that_a_server_started_it(rig: Rig) -> None:
    running = await rig.accepted()
    rig.policy.says = needs()
    request = rig.call(running, "files/read")
    news = await refused(
        rig, opening.open_step(rig.house, rig.caller(MAIL), request, rig.op(), "d"), "authorization_pending"
    )
    assert news.approval is not None
    seen = await approving.view(rig.house, ALICE, news.approval.id)
    assert seen.text is not None
    assert any("A server started it by itself" in line for line in seen.text)
    assert any("Before that: mail/pay" in line for line in seen.text)
    await approving.sign(rig.house, news.approval.id, given(seen.record))
    rig.clock.time += 6
    ready = await opening.renew_token(rig.house, rig.caller(MAIL), news.approval.step)
    done = await rig.take(ready, who=FILES, by=MAIL)
    assert done.record.step.origin == "server", "an approval changes no origin"


async def test_an_intent_cannot_be_approved(rig: Rig) -> None:
    await rig.start()
    rig.policy.says = needs()
    await refused(rig, rig.start(), "approval_required")


async def test_another_workload_may_not_poll(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await refused(rig, poll(rig, record), "authorization_pending")
    with pytest.raises(Refused) as no:
        await opening.renew_token(rig.house, rig.caller(MAIL), record.asked.step.id)
    assert no.value.code == "not_found"


async def test_cancel_and_deny_race_one_of_them_wins(rig: Rig) -> None:
    record = await asked(rig, await rig.start())

    def command(verb: Any) -> RefuseCommand:
        return RefuseCommand(
            approval=record.asked.id, verb=verb, by="x", reason="", ref="AAAAAAAAAA", now=rig.clock.time
        )

    done = await asyncio.gather(
        rig.store.approvals.refuse(command("deny")),
        rig.store.approvals.refuse(command("cancel")),
        sign(rig, record),
        return_exceptions=True,
    )
    assert len([each for each in done if isinstance(each, ApprovalRecord)]) == 1
    assert all(isinstance(each, ApprovalRecord | Refused | Conflict) for each in done)


async def test_unused_arguments_are_the_same_arguments(rig: Rig) -> None:
    """Key order and number form change nothing; anything else is another action with another digest."""
    root = await rig.start()
    one = await asked(rig, root)
    same = await asked(rig, root, args={"amount": 5.0, "to": "bob"})
    assert one.asked.action.args == same.asked.action.args
    assert one.asked.digest != same.asked.digest
    for args in ({**ARGS, "amount": "5"}, {**ARGS, "to": "bo\u0062\u0301"}, {**ARGS, "x": None}):
        bound(rig, per_initiator=99, per_requester=99)
        other = await asked(rig, root, args=args)
        assert other.asked.action.args != one.asked.action.args


async def test_persons_can_be_asked_about_what_a_server_makes_its_client_do(rig: Rig) -> None:
    step = await rig.accepted()
    record = await asked(rig, step, "client/elicitation", who=MAIL, args={"message": "m" * 43})
    seen = await approving.view(rig.house, ALICE, record.asked.id)
    assert any("client/elicitation" in line for line in seen.text or ())
    assert record.asked.step.performer == AGENT

"""Refusals are hops too, within a rate."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import SeededEntropy
from tests.flows.rig import AGENT, MAIL, Rig

from stepwrit_broker.core.errors import Conflict, Malformed, Refused, Unavailable
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows import refusals
from stepwrit_broker.flows.refusals import CALLERS_MAX, PER_CALLER, PER_PATTERN, PER_S, RefusalRecorder
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import Happening, KeptDecision


class Book:
    """The one verb of the Store port that a recorder uses. `fails`: what the next writes raise."""

    def __init__(self) -> None:
        self.written: list[Happening] = []
        self.fails: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def record(self, happening: Happening) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.written.append(happening)

    def of(self, kind: str) -> list[Any]:
        return [each.evidence.facts for each in self.written if each.kind == kind]


class Desk:
    """A recorder over a book."""

    def __init__(self) -> None:
        self.book, self.clock = Book(), FakeClock()
        self.heard: list[tuple[str, ...]] = []
        self.recorder = RefusalRecorder(
            store=self.book,  # type: ignore[arg-type]
            clock=self.clock,
            entropy=SeededEntropy(),
            heard=lambda *said: self.heard.append(said),
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def refuse(desk: Desk, rig: Rig, times: int = 1, *, who: Any = AGENT, code: str = "policy") -> Refused:
    problem = Refused(code, "no")
    for _ in range(times):
        problem = Refused(code, "no", rule="r")
        await desk.recorder.note(problem, rig.caller(who), "open", {"tool": "mail/pay", "txn": "txn_1"})
    return problem


async def test_a_refusal_gets_a_ref_an_entry_and_is_heard(desk: Desk, rig: Rig) -> None:
    problem = await refuse(desk, rig)
    assert problem.ref is not None
    (happening,) = desk.book.written
    assert (happening.kind, happening.ref, happening.tenant, happening.txn) == (
        "refused",
        problem.ref,
        "acme",
        "txn_1",
    )
    assert happening.evidence.facts == {
        "verb": "open",
        "code": "policy",
        "reason": "no",
        "rule": "r",
        "caller": AGENT,
        "role": "agent",
        "svid": "5e",
        "attested_by": "x509",
        "tool": "mail/pay",
        "txn": "txn_1",
    }
    assert desk.heard == [("open", "policy", "r", "mail/pay", problem.ref)]


async def test_many_ids_below_one_pattern_are_one_flood(desk: Desk, rig: Rig) -> None:
    """Whoever can name workloads below a registered pattern has as many callers as it likes."""
    one, count = rig.caller(AGENT), PER_PATTERN + CALLERS_MAX + 1
    pattern = replace(one.entry, id="spiffe://partner.test/*")
    for at in range(count):
        name = SpiffeId(f"spiffe://partner.test/{at}")
        caller = replace(one, entry=pattern, workload=replace(one.workload, id=name))
        await desk.recorder.note(Refused("policy", "no"), caller, "open", {})
    assert len(desk.book.of("refused")) == PER_PATTERN
    await desk.recorder.flush(desk.clock.now())
    (counted,) = desk.book.of("refused.counted")
    assert (counted["caller"], counted["counted"]) == (pattern.id, {"policy": CALLERS_MAX + 1})
    await refuse(desk, rig)
    assert len(desk.book.of("refused")) == PER_PATTERN + 1, "others are on record as before"


async def test_one_noisy_id_below_a_pattern_hides_no_other(desk: Desk, rig: Rig) -> None:
    one = rig.caller(AGENT)
    pattern = replace(one.entry, id="spiffe://partner.test/*")
    noisy, quiet = (
        replace(
            one, entry=pattern, workload=replace(one.workload, id=SpiffeId(f"spiffe://partner.test/{at}"))
        )
        for at in ("noisy", "quiet")
    )
    for _ in range(PER_PATTERN + 1):
        await desk.recorder.note(Refused("policy", "no"), noisy, "open", {})
    assert len(desk.book.of("refused")) == PER_CALLER
    await desk.recorder.note(Refused("policy", "no"), quiet, "open", {})
    assert len(desk.book.of("refused")) == PER_CALLER + 1


async def test_a_refusal_that_has_a_ref_keeps_it(desk: Desk, rig: Rig) -> None:
    problem = Refused("policy", "no", ref="REF0000000")
    await desk.recorder.note(problem, rig.caller(AGENT), "open", {"txn": None})
    assert problem.ref == "REF0000000"
    assert desk.book.written[0].txn is None


@pytest.mark.parametrize(
    "fails",
    [
        Unavailable("unavailable", "doubt"),
        Malformed("invalid_request", "too large"),
        Conflict("wrong_state", "x"),
    ],
)
async def test_recording_never_fails_the_refusal_itself(desk: Desk, rig: Rig, fails: Exception) -> None:
    desk.book.fails = fails
    problem = await refuse(desk, rig)
    assert problem.ref is not None
    desk.clock.doubt = True
    assert (await refuse(desk, rig)).ref is not None
    assert len(desk.heard) == 2


async def test_beyond_its_rate_a_callers_refusals_are_counted_in_one_entry(desk: Desk, rig: Rig) -> None:
    await refuse(desk, rig, PER_CALLER)
    await refuse(desk, rig, 30)
    await refuse(desk, rig, 12, code="limit")
    assert len(desk.book.of("refused")) == PER_CALLER
    assert len(desk.heard) == PER_CALLER + 42
    assert await desk.recorder.flush(desk.clock.time) == 1
    assert desk.book.of("refused.counted") == [
        {"caller": AGENT, "since": desk.clock.time, "counted": {"policy": 30, "limit": 12}}
    ]
    assert await desk.recorder.flush(desk.clock.time) == 0


async def test_one_caller_does_not_use_up_anothers_rate(desk: Desk, rig: Rig) -> None:
    await refuse(desk, rig, PER_CALLER + 5)
    await refuse(desk, rig, 3, who=MAIL)
    assert [facts["caller"] for facts in desk.book.of("refused")].count(MAIL) == 3


async def test_a_new_window_begins_after_its_time_and_not_before(desk: Desk, rig: Rig) -> None:
    await refuse(desk, rig, PER_CALLER + 1)
    await desk.recorder.flush(desk.clock.advance(PER_S - 1))
    await refuse(desk, rig)
    assert len(desk.book.of("refused")) == PER_CALLER
    await desk.recorder.flush(desk.clock.advance(1))
    await refuse(desk, rig)
    assert len(desk.book.of("refused")) == PER_CALLER + 1


async def test_a_count_that_could_not_be_written_is_counted_on(desk: Desk, rig: Rig) -> None:
    await refuse(desk, rig, PER_CALLER + 2)
    desk.book.fails = Unavailable("unavailable", "doubt")
    with pytest.raises(Unavailable):
        await desk.recorder.flush(desk.clock.advance(PER_S))
    desk.book.fails = None
    await refuse(desk, rig, 3)
    await desk.recorder.flush(desk.clock.time)
    assert [facts["counted"] for facts in desk.book.of("refused.counted")] == [{"policy": 5}]


async def test_what_is_counted_while_the_count_is_being_written_is_not_lost(desk: Desk, rig: Rig) -> None:
    await refuse(desk, rig, PER_CALLER + 2)
    desk.book.gate = asyncio.Event()
    flushing = asyncio.create_task(desk.recorder.flush(desk.clock.advance(PER_S)))
    await asyncio.sleep(0)
    await refuse(desk, rig, 4)
    desk.book.gate.set()
    await flushing
    await desk.recorder.flush(desk.clock.time)
    assert [facts["counted"] for facts in desk.book.of("refused.counted")] == [{"policy": 2}, {"policy": 4}]


async def test_many_callers_are_remembered_within_bounds(
    desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "CALLERS_MAX", 1)
    await refuse(desk, rig)
    await refuse(desk, rig, who=MAIL)
    assert len(desk.recorder._tallies) == 1
    assert len(desk.book.of("refused")) == 2


async def test_on_the_real_store_a_refusal_is_found_under_its_ref(rig: Rig) -> None:
    with pytest.raises(Refused) as no:
        await rig.open(await rig.start(), "mail/none")
    entry = rig.entries("refused")[-1]
    assert (entry["ref"], entry["code"], entry["caller"]) == (no.value.ref, "not_registered", AGENT)


async def test_a_refusal_whose_entry_would_be_too_large_is_still_told(rig: Rig) -> None:
    problem = Refused("policy", "no")
    await rig.refusals.note(problem, rig.caller(AGENT), "open", {"x": "y" * 70_000})
    assert problem.ref is not None
    assert rig.entries("refused") == []


async def test_a_refusal_by_policy_keeps_what_was_asked_and_answered(rig: Rig) -> None:
    root = await rig.start()
    rig.policy.says = Deny(policies=("p2",), reason="not now")
    with pytest.raises(Refused) as no:
        await rig.open(root)
    entry = rig.entries("refused")[-1]
    assert entry["ref"] == no.value.ref
    with closing(SqliteLedgerView(rig.path)) as view:
        kept = view.decision(entry["decision"])
    assert kept == {
        "document": rig.policy.asked[-1].document,
        "verdict": "deny",
        "reason": "not now",
        "policies": ["p2"],
        "versions": {"policy": 0, "registry": 0, "limits": 0, "bundles": 0},
    }
    assert "alice" not in repr(entry), "the person is in the document only"


async def test_the_document_of_a_missing_approval_says_what_is_missing(rig: Rig) -> None:
    root = await rig.start()
    rig.policy.says = NeedsApproval(policies=("p3",), setting="policy p3")
    with pytest.raises(Refused):
        await rig.open(root)
    with closing(SqliteLedgerView(rig.path)) as view:
        kept = view.decision(rig.entries("step.opened")[-1]["decision"]) or {}
    assert (kept["verdict"], kept["setting"]) == ("approval", "policy p3")
    assert kept["terms"] == [{"count": 1, "persons": [], "requester": True, "alone": True}]


async def test_a_refused_intents_document_is_salted_and_erasable_by_its_ref(rig: Rig) -> None:
    rig.policy.says = Deny(policies=(), reason="no")
    with pytest.raises(Refused) as no:
        await rig.start()
    ref = no.value.ref or ""
    with closing(SqliteLedgerView(rig.path)) as view:
        (entry,) = view.by_ref(ref, None)
        assert (entry.txn, view.proved(entry).proved) == (None, "good")
        await rig.store.within(lambda conn: SqliteLog().erase_salt(conn, ref))
        assert view.proved(entry) == KeptDecision(proved="unsalted")


async def test_a_refusal_that_policy_did_not_decide_keeps_no_document(rig: Rig) -> None:
    with pytest.raises(Refused):
        await rig.open(await rig.start(), "mail/none")
    assert "decision" not in rig.entries("refused")[-1]


async def test_what_is_only_counted_keeps_no_document(rig: Rig) -> None:
    root = await rig.start()
    rig.policy.says = Deny(policies=(), reason="no")
    for _ in range(PER_CALLER + 3):
        with pytest.raises(Refused):
            await rig.open(root)
    await rig.refusals.flush(rig.clock.now())
    assert len([each for each in rig.entries("refused") if "decision" in each]) == PER_CALLER
    assert "decision" not in rig.entries("refused.counted")[-1]


async def test_a_refused_step_keeps_the_ref_that_it_would_have_had(rig: Rig) -> None:
    root = await rig.start()
    rig.policy.says = Deny(policies=(), reason="no")
    with pytest.raises(Refused) as no:
        await rig.open(root)
    assert no.value.ref == rig.policy.asked[-1].ref
    rig.policy.says = Permit(policies=())
    step = await rig.open(root)
    assert step.record.step.ref == rig.policy.asked[-1].ref != no.value.ref


async def test_a_refused_credential_has_a_ref_of_its_own(rig: Rig) -> None:
    step = await rig.accepted()
    rig.policy.says = Deny(policies=(), reason="no")
    with pytest.raises(Refused) as no:
        await rig.credential(step)
    assert no.value.ref != rig.policy.asked[-1].ref == step.step.ref

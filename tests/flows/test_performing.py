"""Accept, wait, resume, heartbeat, close."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import AGENT, ARGS, BANK, FILES, FOREIGN, MAIL, TD, Rig
from tests.flows.test_opening import revoke

from stepwrit.digest import args_digest
from stepwrit.wire import WaitRequest
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows import opening, performing
from stepwrit_broker.ports import Moved

MAIL_2 = SpiffeId(f"{TD}/mcp/mail/2")


async def ready_step(rig: Rig, tool: str = "mail/pay") -> opening.StepReady:
    return await rig.open(await rig.start(), tool)


async def refused(rig: Rig, code: str, ready: opening.StepReady, **changes: Any) -> Problem:
    with pytest.raises(Problem) as no:
        await rig.take(ready, **changes)
    assert no.value.code == code, no.value.reason
    return no.value


async def beat(rig: Rig, step: str, who: SpiffeId = MAIL) -> Moved:
    return await performing.heartbeat(rig.house, rig.caller(who, key=False), step, rig.op(), "d")


async def wait(rig: Rig, step: str, round_: int = 1) -> Moved:
    return await performing.wait(
        rig.house, rig.caller(MAIL, key=False), step, WaitRequest(round=round_), rig.op(), "d"
    )


async def close(rig: Rig, step: str, outcome: Any = "done", who: SpiffeId = MAIL) -> Moved:
    return await performing.close(rig.house, rig.caller(who, key=False), step, outcome, rig.op(), "d")


# --- accept


async def test_the_performer_takes_the_step_and_learns_its_clock(rig: Rig) -> None:
    ready = await ready_step(rig)
    got = await rig.take(ready)
    life = got.record.life
    assert (life.state, life.round, life.performer) == ("accepted", 1, MAIL)
    assert got.self_grant is None
    assert got.ends_at == rig.clock.time + got.lives.accepted_s
    assert rig.entries("step.accepted")[-1]["performer"] == MAIL


async def test_any_workload_that_the_pattern_covers_may_take_it_but_one_only(rig: Rig) -> None:
    rig.keys[MAIL_2] = rig.keys[MAIL]
    ready = await ready_step(rig)
    await rig.take(ready, who=MAIL_2)
    await refused(rig, "wrong_workload", ready, who=MAIL)


@pytest.mark.parametrize(
    ("who", "code"), [(FILES, "wrong_workload"), (AGENT, "wrong_workload"), (FOREIGN, "not_found")]
)
async def test_nobody_else_takes_it(rig: Rig, who: SpiffeId, code: str) -> None:
    ready = await ready_step(rig)
    await refused(rig, code, ready, who=who)
    assert await rig.take(ready)


async def test_a_second_accept_of_a_round_is_a_replay_and_the_same_operation_is_not(rig: Rig) -> None:
    ready = await ready_step(rig)
    asked, op, step = rig.arrival(ready), rig.op(), ready.record.step.id
    caller = rig.caller(MAIL, key=False)
    first = await performing.accept(rig.house, caller, step, asked, op, "d")
    again = await performing.accept(rig.house, caller, step, asked, op, "d")
    assert first.record == again.record
    await refused(rig, "replay", ready)
    assert rig.entries("refused")[-1]["txn"] == ready.record.step.txn


@pytest.mark.parametrize("state", ["", "short", "=" * 43, "A" * 44])
async def test_a_state_is_named_by_its_digest(rig: Rig, state: str) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    caller = rig.caller(MAIL, key=False)
    bad, good = (WaitRequest(round=1, state=each) for each in (state, "A" * 43))
    with pytest.raises(Malformed, match="state"):
        await performing.wait(rig.house, caller, step, bad, rig.op(), "d")
    moved = await performing.wait(rig.house, caller, step, good, rig.op(), "d")
    assert moved.record.life.awaits == "A" * 43


async def test_changed_arguments_are_refused_whoever_changed_them(rig: Rig) -> None:
    ready = await ready_step(rig)
    await refused(rig, "arguments_changed", ready, args=args_digest({**ARGS, "to": "eve"}))
    assert await rig.take(ready)


async def test_a_pinned_schema_must_be_the_one_that_is_served(rig: Rig) -> None:
    free = await ready_step(rig)
    assert await rig.take(free, schema="sha256-other")
    entries = tuple(
        replace(
            entry, tools={name: replace(tool, schema="sha256-pinned") for name, tool in entry.tools.items()}
        )
        for entry in rig.settings.registry.entries
    )
    rig.settings.registry = replace(rig.settings.registry, entries=entries)
    ready = await ready_step(rig)
    for served in (None, "", "sha256-other"):
        problem = await refused(rig, "schema_changed", ready, schema=served)
        assert problem.rule == "registry schema"
    assert await rig.take(ready, schema="sha256-pinned")


async def test_the_initiators_proof_must_hold_and_is_good_once(rig: Rig) -> None:
    one, other = await ready_step(rig), await ready_step(rig)
    for proof in (
        "x",
        rig.arrival(one, by=FILES).proof,
        rig.arrival(one, round_=2).proof,
        rig.arrival(other).proof,
    ):
        with pytest.raises(Unproven) as no:
            await rig.take(one, proof=proof)
        assert no.value.code == "invalid_proof"
    assert await rig.take(one)


async def test_a_token_of_another_step_or_of_nobody_is_refused(rig: Rig) -> None:
    one, other = await ready_step(rig), await ready_step(rig)
    await refused(rig, "invalid_request", one, token=other.token)
    await refused(rig, "invalid_token", one, token=other.token[:-8] + "AAAAAAAA")
    assert await rig.take(one)


async def test_an_intent_is_not_accepted(rig: Rig) -> None:
    from stepwrit_broker.flows.intent import start_intent

    started = await start_intent(rig.house, rig.caller(AGENT), rig.wish(), rig.op(), rig.op(), "d")
    with pytest.raises(Malformed):
        await rig.take(
            opening.StepReady(record=started.record, token=started.token, expires_in=60), who=AGENT
        )


@pytest.mark.parametrize("step", ["x", "stp_100" + "0" * 26])
async def test_an_unknown_step_is_not_found(rig: Rig, step: str) -> None:
    ready = await ready_step(rig)
    with pytest.raises(Refused) as no:
        await performing.accept(
            rig.house, rig.caller(MAIL, key=False), step, rig.arrival(ready), rig.op(), "d"
        )
    assert no.value.code == "not_found"


async def test_a_late_token_is_refused_and_a_fresh_one_takes_the_step(rig: Rig) -> None:
    ready = await ready_step(rig)
    rig.clock.advance(70)
    await refused(rig, "expired", ready)
    fresh = await opening.renew_token(rig.house, rig.caller(AGENT), ready.record.step.id)
    assert await rig.take(fresh)


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        ("arguments_changed", "arguments_changed"),
        ("invalid_proof", "invalid_proof"),
        ("nonsense", "invalid_request"),
    ],
)
async def test_what_the_performers_sdk_refused_is_recorded_and_changes_nothing(
    rig: Rig, finding: str, code: str
) -> None:
    ready = await ready_step(rig)
    problem = await refused(rig, code, ready, finding=finding, proof="x")
    entry = rig.entries("refused")[-1]
    assert (entry["ref"], entry["verb"], entry["step"]) == (problem.ref, "accept", ready.record.step.id)
    assert await rig.take(ready)


async def test_a_finding_on_a_token_that_is_not_ours_is_not_taken_at_its_word(rig: Rig) -> None:
    ready = await ready_step(rig)
    await refused(rig, "invalid_token", ready, finding="expired", token="x.y.z")


async def test_a_frozen_performer_or_tool_is_not_accepted(rig: Rig) -> None:
    ready = await ready_step(rig)
    await revoke(rig, "tool:mail/pay", "freeze")
    await refused(rig, "frozen", ready)


async def test_a_tool_that_is_its_own_resource_is_used_by_its_accept_once(rig: Rig) -> None:
    ready = await ready_step(rig, "mail/note")
    got = await rig.take(ready)
    assert got.self_grant is not None
    assert (got.self_grant.kind, got.self_grant.is_self, got.self_grant.audience) == ("self", True, MAIL)
    stored = await rig.store.grant(got.self_grant.id)
    assert stored is not None
    assert stored.state == "redeemed"
    assert len(rig.entries("grant.self")) == 1
    assert rig.entries("grant.issued") == []
    step = ready.record.step.id
    await wait(rig, step)
    fresh = await opening.renew_token(rig.house, rig.caller(AGENT), step)
    assert (await rig.take(fresh, round_=2)).self_grant is None
    assert len(rig.entries("grant.self")) == 1


# --- rounds


async def test_a_waiting_step_takes_its_next_round_and_needs_no_heartbeat(rig: Rig) -> None:
    ready = await ready_step(rig)
    step = (await rig.take(ready)).record.step.id
    assert (await wait(rig, step)).record.life.state == "waiting"
    rig.clock.advance(600)
    fresh = await opening.renew_token(rig.house, rig.caller(AGENT), step)
    await refused(rig, "replay", fresh, round_=1)
    await refused(rig, "wrong_state", fresh, round_=3)
    got = await rig.take(fresh, round_=2)
    assert (got.record.life.state, got.record.life.round) == ("accepted", 2)
    assert [entry["kind"] for entry in rig.entries() if str(entry["kind"]).startswith("step.")] == [
        "step.opened",
        "step.accepted",
        "step.waiting",
        "step.resumed",
    ]


async def test_a_step_waits_only_in_its_own_round_and_only_while_it_runs(rig: Rig) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    with pytest.raises(Conflict):
        await wait(rig, step, 2)
    await wait(rig, step)
    with pytest.raises(Conflict):
        await wait(rig, step)


# --- heartbeat


async def test_a_beating_step_lives_and_a_silent_one_is_lost(rig: Rig) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    for _ in range(5):
        rig.clock.advance(59)
        assert (await beat(rig, step)).record.life.state == "accepted"
    rig.clock.advance(60)
    with pytest.raises(Refused) as no:
        await beat(rig, step)
    assert no.value.code == "expired"


async def test_a_step_does_not_live_beyond_its_quarter_of_an_hour_however_it_beats(rig: Rig) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    for _ in range(15):
        rig.clock.advance(59)
        await beat(rig, step)
    rig.clock.advance(15)
    with pytest.raises(Refused):
        await beat(rig, step)


async def test_a_revoked_step_hears_of_it_at_its_next_beat_and_can_still_be_closed(rig: Rig) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    await revoke(rig, f"step:{step}")
    with pytest.raises(Refused) as no:
        await beat(rig, step)
    assert no.value.code == "revoked"
    assert (await close(rig, step)).record.life.state == "done"


# --- close


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled"])
async def test_a_close_says_its_outcome_and_is_the_end(rig: Rig, outcome: str) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    assert (await close(rig, step, outcome)).record.life.state == outcome
    entry = rig.entries("step.closed")[-1]
    assert (entry["outcome"], entry["reported_by"]) == (outcome, MAIL)
    for verb in (lambda: beat(rig, step), lambda: close(rig, step), lambda: wait(rig, step)):
        with pytest.raises(Refused) as no:
            await verb()
        assert no.value.code in ("already_done", "closed")


async def test_a_close_ends_credentials_and_children(rig: Rig) -> None:
    step = await rig.accepted()
    await rig.credential(step)
    child = await rig.open(step, "files/read", who=MAIL)
    later = await rig.open(step, "files/read", who=MAIL, deferred=True)
    assert (await close(rig, step.step.id)).revoked == 1
    for ready, state in ((child, "cancelled"), (later, "opened")):
        record = await rig.store.step(ready.record.step.id)
        assert record is not None
        assert record.life.state == state


async def test_a_repeated_close_gets_the_first_answer(rig: Rig) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    caller = rig.caller(MAIL, key=False)
    answers = [await performing.close(rig.house, caller, step, "done", "operation-c", "d") for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("who", [FILES, BANK, AGENT, FOREIGN, MAIL_2])
async def test_nobody_but_the_performer_moves_a_step(rig: Rig, who: SpiffeId) -> None:
    step = (await rig.take(await ready_step(rig))).record.step.id
    for verb in (beat, close):
        with pytest.raises(Refused) as no:
            await verb(rig, step, who=who)
        assert (no.value.code, no.value.reason) == ("not_found", "no such step")
    assert await beat(rig, step)


@pytest.mark.parametrize("step", ["", "x", "stp_100" + "0" * 26])
async def test_an_unknown_step_does_not_move_and_the_try_is_an_entry(rig: Rig, step: str) -> None:
    with pytest.raises(Refused) as no:
        await beat(rig, step)
    assert no.value.code == "not_found"
    assert rig.entries("refused")[-1]["verb"] == "heartbeat"

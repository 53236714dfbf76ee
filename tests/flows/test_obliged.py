"""What a permit demands is done, or the step is refused: lives, demands on the caller, children, facts."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import AGENT, ARGS, AUDIENCE, MAIL, Rig, Stages

from stepwrit.digest import args_digest
from stepwrit.dpop import make_step_proof
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.obligations import EVERY_FACT, Obligation, read
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Verdict
from stepwrit_broker.flows import intent, issue, opening, performing
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.ledger.view import SqliteLedgerView


def says(rig: Rig, **stated: str) -> None:
    """From now on policy permits with these obligations; without any it permits plainly."""
    found = tuple(each for pair in stated.items() for each in read("p1", *pair))
    rig.policy.says = Permit(policies=("p1",), obligations=found)


def life(issued: issue.Issued) -> int:
    return int(issued.record.grant.expires_at - issued.record.grant.issued_at)


# --- max_life


async def test_a_credential_lives_no_longer_than_its_own_decision_says(rig: Rig) -> None:
    step = await rig.accepted()
    assert life(await rig.credential(step)) == 60
    step = await rig.accepted()
    says(rig, max_life="20")
    issued = await rig.credential(step)
    claims = rig.credentials.read(issued.credential, rig.clock.time)
    assert (life(issued), issued.expires_in, claims.exp - claims.iat) == (20, 20, 20)
    rig.clock.time += 21
    with pytest.raises(Problem, match="expired"):
        await rig.spend(issued.credential)


async def test_an_obligation_makes_no_life_longer(rig: Rig) -> None:
    step = await rig.accepted()
    says(rig, max_life="900")
    assert life(await rig.credential(step)) == 60


@pytest.mark.parametrize(("opened", "now", "left"), [("30", "20", 20), ("20", "30", 20), ("20", "", 20)])
async def test_what_was_said_at_opening_holds_and_the_stricter_counts(
    rig: Rig, opened: str, now: str, left: int
) -> None:
    root = await rig.start()
    says(rig, max_life=opened)
    ready = await rig.open(root)
    says(rig, **({"max_life": now} if now else {}))
    assert life(await rig.credential((await rig.take(ready)).record)) == left


async def test_what_was_said_of_an_intent_holds_for_all_below_it(rig: Rig) -> None:
    says(rig, max_life="20")
    root = await rig.start()
    says(rig)
    step = (await rig.take(await rig.open(root))).record
    server = await rig.open(step, "files/read", who=MAIL)
    assert life(await rig.credential(step)) == 20
    assert [(each.name, each.value) for each in server.record.step.obligations] == [("max_life", "20")]


# --- require


async def _starts(rig: Rig, **who: Any) -> object:
    request = rig.wish()
    return await intent.start_intent(rig.house, rig.caller(AGENT, **who), request, rig.op(), rig.op(), "d")


async def _opens(rig: Rig, **who: Any) -> object:
    says(rig)
    call = rig.call(await rig.start())
    says(rig, require="x509,mtls,dpop")
    return await opening.open_step(rig.house, rig.caller(AGENT, **who), call, rig.op(), "d")


async def _asks(rig: Rig, **who: Any) -> object:
    says(rig)
    step = (await rig.accepted()).step.id
    says(rig, require="x509,mtls,dpop")
    return await issue.issue(
        rig.house, rig.caller(MAIL, **who), step, AUDIENCE, rig.details(), rig.op(), "d", Stages([])
    )


async def _takes(rig: Rig, **who: Any) -> object:
    says(rig)
    ready = await rig.open(await rig.start(), "mail/note")
    says(rig, require="x509,mtls,dpop")
    arrival = rig.arrival(ready)
    return await performing.accept(
        rig.house, rig.caller(MAIL, **who), ready.record.step.id, arrival, rig.op(), "d"
    )


def by_jwt(rig: Rig, who: Any) -> Mapping[str, Any]:
    return {"workload": replace(rig.caller(who).workload, attested_by="jwt")}


def by_proxy(rig: Rig, who: Any) -> Mapping[str, Any]:
    return {"workload": replace(rig.caller(who).workload, via=AGENT)}


@pytest.mark.parametrize(
    ("ask", "who"), [(_starts, AGENT), (_opens, AGENT), (_asks, MAIL)], ids=["intent", "open", "credential"]
)
@pytest.mark.parametrize(
    ("how", "missed", "words"),
    [(by_jwt, "x509", "attested by X.509-SVID"), (by_proxy, "mtls", "not through a proxy")],
    ids=["bearer", "proxy"],
)
async def test_a_caller_who_is_not_attested_as_policy_demands_gets_nothing(
    rig: Rig,
    ask: Callable[..., Awaitable[object]],
    who: Any,
    how: Callable[[Rig, Any], Mapping[str, Any]],
    missed: str,
    words: str,
) -> None:
    says(rig, require="x509,mtls,dpop")
    assert await ask(rig)
    says(rig, require="x509,mtls,dpop")
    kinds = [each["kind"] for each in rig.entries()]
    with pytest.raises(Refused) as no:
        await ask(rig, **how(rig, who))
    assert (no.value.code, no.value.who_can_change_it) == ("policy", "the operator (policy)")
    assert no.value.rule == f"policy v0 p1 obligation require={missed}"
    assert words in no.value.reason
    new = [each["kind"] for each in rig.entries()][len(kinds) :]
    assert new[-1] == "refused"
    assert not {"grant.issued"} & set(new)


async def test_a_bearer_that_accepts_meets_what_policy_demands_or_accepts_nothing(rig: Rig) -> None:
    assert await _takes(rig)
    with pytest.raises(Refused) as no:
        await _takes(rig, **by_jwt(rig, MAIL))
    assert no.value.rule == "policy v0 p1 obligation require=x509"


async def test_nobody_is_asked_to_sign_for_a_caller_that_policy_will_not_have(rig: Rig) -> None:
    call = rig.call(await rig.start())
    demands = read("p1", "require", "x509")
    rig.policy.says = NeedsApproval(policies=("ask",), setting="s", obligations=demands)
    with pytest.raises(Refused, match="authorization_pending"):
        await opening.open_step(rig.house, rig.caller(AGENT), call, rig.op(), "d")
    with pytest.raises(Refused) as no:
        await opening.open_step(rig.house, rig.caller(AGENT, **by_jwt(rig, AGENT)), call, rig.op(), "d")
    assert no.value.rule == "policy v0 p1 obligation require=x509"


async def test_an_engine_that_hands_on_what_nobody_here_knows_is_not_believed(rig: Rig) -> None:
    assert await _starts(rig)
    rig.policy.says = Permit(policies=("p1",), obligations=(Obligation("tell_the_owner", "now", "p1"),))
    with pytest.raises(Refused) as no:
        await _starts(rig)
    assert no.value.rule == "policy v0 p1 obligation tell_the_owner=now"


# --- fan_out


async def test_a_step_opens_as_many_steps_as_policy_said_when_it_was_opened(rig: Rig) -> None:
    says(rig, fan_out="2")
    root = await rig.start()
    says(rig)
    for _ in range(2):
        await rig.open(root)
    with pytest.raises(Refused) as no:
        await rig.open(root)
    assert (no.value.code, no.value.rule) == ("limit", "policy p1 obligation fan_out=2")
    await rig.open(await rig.start())  # another transaction, permitted without it


async def test_a_credential_is_refused_where_the_step_may_start_more_than_policy_says_now(rig: Rig) -> None:
    says(rig, fan_out="1")
    held = await rig.accepted()
    says(rig, fan_out="2")
    assert await rig.credential(held)
    says(rig)
    free = await rig.accepted()
    for step, most in ((held, "0"), (free, "5")):
        says(rig, fan_out=most)
        with pytest.raises(Refused) as no:
            await rig.credential(step)
        assert no.value.rule == f"policy v0 p1 obligation fan_out={most}"


# --- redact


SECRET = "DE02120300000000202051"


def kept(rig: Rig, kind: str) -> Mapping[str, Any]:
    with closing(SqliteLedgerView(rig.path)) as view:
        return view.decision(rig.entries(kind)[-1]["decision"]) or {}


def everything(rig: Rig, record: StepRecord) -> str:
    """All that `explain` tells, all entries, and all that is kept beside the log."""
    with closing(SqliteLedgerView(rig.path)) as view, closing(sqlite3.connect(rig.path)) as conn:
        docs = conn.execute("SELECT doc FROM decisions").fetchall()
        return repr((explain(view, record.step.txn, None), rig.entries(), docs))


async def pay(rig: Rig, root: StepRecord) -> StepRecord:
    """A step with the secret among its facts, accepted, with a credential."""
    args = {**ARGS, "to": SECRET}
    ready = await rig.open(root, args=args)
    digest = args_digest(args)
    proof = make_step_proof(
        rig.keys[AGENT], token=ready.token, args=digest, round=1, now=rig.clock.time, jti=rig.op()
    )
    taken = await rig.take(ready, args=digest, proof=proof)
    await rig.credential(taken.record)
    return taken.record


async def test_a_fact_that_is_not_redacted_is_kept(rig: Rig) -> None:
    step = await pay(rig, await rig.start())
    for kind in ("step.opened", "grant.issued"):
        assert kept(rig, kind)["document"]["facts"] == {"to": SECRET}
        assert "redacted" not in kept(rig, kind)
    assert SECRET in everything(rig, step)


@pytest.mark.parametrize("when", ["intent", "open"])
async def test_a_redacted_fact_is_in_no_record_of_the_step_and_its_credential(rig: Rig, when: str) -> None:
    if when == "intent":
        says(rig, redact="to")
        root = await rig.start()
        says(rig)
    else:
        root = await rig.start()
        says(rig, redact="to,other")
    step = await pay(rig, root)
    assert rig.policy.asked[-1].document["facts"] == {"to": SECRET}, "policy itself decides on it"
    for kind in ("step.opened", "grant.issued"):
        assert (kept(rig, kind)["document"]["facts"], kept(rig, kind)["redacted"]) == ({}, ["to"])
    assert SECRET not in everything(rig, step)


async def test_a_later_permit_without_it_does_not_bring_a_redacted_fact_back(rig: Rig) -> None:
    root = await rig.start()
    says(rig, redact="to")
    step = await pay(rig, root)
    says(rig)
    await rig.credential(step, method="GET", url=f"{AUDIENCE}/v1/a")
    assert kept(rig, "grant.issued")["redacted"] == ["to"]
    rig.policy.says = Deny(policies=("p2",), reason="no")
    with pytest.raises(Refused):
        await rig.credential(step, method="GET", url=f"{AUDIENCE}/v1/a")
    assert (kept(rig, "refused")["document"]["facts"], kept(rig, "refused")["redacted"]) == ({}, ["to"])
    assert SECRET not in everything(rig, step)


@pytest.mark.parametrize(
    "verdict",
    [
        Deny(policies=("p2",), reason="no", redact=frozenset({"to"})),
        Deny(policies=("p2",), reason="no", redact=frozenset({EVERY_FACT})),
        Permit(policies=("p1",), obligations=(*read("p1", "redact", "to"), Obligation("x", "y", "p1"))),
    ],
)
async def test_a_refusal_keeps_no_redacted_fact_either(rig: Rig, verdict: Verdict) -> None:
    root = await rig.start()
    call = rig.call(root, args={**ARGS, "to": SECRET})
    rig.policy.says = Deny(policies=("p2",), reason="no")
    for says_, facts in ((Deny(policies=("p2",), reason="no"), {"to": SECRET}), (verdict, {})):
        rig.policy.says = says_
        with pytest.raises(Refused):
            await opening.open_step(rig.house, rig.caller(AGENT), call, rig.op(), "d")
        assert kept(rig, "refused")["document"]["facts"] == facts


async def test_what_was_demanded_is_recorded_with_the_policy_that_demands_it(rig: Rig) -> None:
    says(rig, max_life="20", require="mtls")
    await rig.start()
    assert kept(rig, "intent.opened")["obligations"] == [
        {"name": "max_life", "value": "20", "policy": "p1"},
        {"name": "require", "value": "mtls", "policy": "p1"},
    ]

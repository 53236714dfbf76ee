"""Approvals from the initiator's side: ask with the step, wait, and whether what was signed is enough now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stepwrit.wire import ApprovalAsked
from stepwrit_broker.core import marks
from stepwrit_broker.core.approval import ApprovalRecord, Ask, Asked, Signed, may_sign, missing, out_of_reach
from stepwrit_broker.core.approval_text import text_digest, text_of
from stepwrit_broker.core.document import Party
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.ids import shard_of
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.registry import Tool
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.core.verdict import NeedsApproval, Permit, Question
from stepwrit_broker.flows.house import House, decision, rule_of, settle, weigh
from stepwrit_broker.flows.pace import INTERVAL_S
from stepwrit_broker.ports import InForce
from stepwrit_broker.ports_approval import Notice

NONCE_BYTES: Final = 32
WAIT_MAX_S: Final = 30.0  # of a long poll
KIND: Final = "action_token"


def ask_for(
    house: House,
    step: Step,
    verdict: NeedsApproval,
    args: Mapping[str, object],
    force: InForce,
    hidden: frozenset[str] = frozenset(),
    looked_at: Sequence[str] = (),
) -> Ask:
    """The approval to be asked for with this step. Its text is made here and sealed at once.

    hidden, looked_at: JSON pointers of arguments, as `text_of` takes them. Raises
    Refused(`approval_required`) where too few persons are known for it ever to be given.
    """
    action, until = step.action, step.approve_by
    if action is None or until is None:
        raise Refused("approval_required", "an intent cannot be approved")
    if step.intent.without_step is not None:
        raise Refused("approval_required", "no person is asked for a call that came without a step")
    lines = text_of(
        step=step,
        action=action,
        performer=step.performer,
        args=args,
        policies=verdict.policies,
        hidden=hidden,
        first=looked_at,
    )
    name, versions = house.id("apr", shard_of(step.id)), force.versions
    asked = Asked(
        id=name,
        nonce=house.entropy.bytes(NONCE_BYTES).hex(),
        step=step,
        action=action,
        performer=step.performer,
        kind=KIND,
        policies=verdict.policies,
        versions={"policy": versions.policy, "registry": versions.registry, "limits": versions.limits},
        terms=verdict.terms,
        asked_at=int(step.opened_at),
        expires_at=int(until),
        text=text_digest(lines),
    )
    _check_reach(asked, force.registry.persons)
    return Ask(asked=asked, sealed=house.sealer.seal(json.dumps(lines).encode(), name))


def _check_reach(asked: Asked, persons: Persons) -> None:
    """Nobody is made to wait for a signature that cannot come."""
    if out_of_reach(asked, persons) > 0:
        raise Refused(
            "approval_required",
            "this needs the signatures of more persons than are known here",
            rule=rule_of(asked.versions["policy"], asked.policies),
            who_can_change_it="the operator (`persons` in registry.yaml must have the approvers and the "
            "triggers' owners that policy and registry name)",
        )


def hidden_places(tool: Tool, redacted: frozenset[str]) -> frozenset[str]:
    """The JSON pointers of the facts that policy wants kept out of sight."""
    return frozenset(pointer for name, pointer in tool.facts if name in redacted)


def is_news(problem: Problem) -> bool:
    """Whether it says "not yet" rather than no: the ledger has told it already."""
    return problem.code in ("authorization_pending", "slow_down")


def check_not_pending(record: StepRecord) -> None:
    """For its performer, who cannot change it. Raises Refused(`authorization_pending`)."""
    if record.life.state == "approval_pending":
        raise Refused(
            "authorization_pending",
            "the step waits for a person's signature",
            rule="approval",
            retry_after=INTERVAL_S,
            ref=record.step.ref,
        )


async def approved(house: House, record: StepRecord, wait_s: float = 0.0) -> StepRecord:
    """A step that waits for its approval: the record once it is given; else raises what a poll is told.

    wait_s: how long to hold the answer. Raises Refused(`authorization_pending`, `slow_down`, `access_denied`,
    `expired_token`).
    """
    if record.step.approve_by is None or record.life.state in ("accepted", "waiting"):
        return record
    approval = await _known(house, record.step)
    if approval.state == "asked":
        _check_pace(house, approval.asked, record.step.ref, waits=wait_s > 0)
        if wait_s > 0:
            told = _told(house, approval.asked, house.clock.now())
            with house.pace.held(approval.asked.id, record.step.ref, told):
                await house.bell.wait(approval.asked.id, min(wait_s, WAIT_MAX_S))
            approval = await _known(house, record.step)
    _raise_news(house, approval, house.clock.now())
    fresh = await house.store.step(record.step.id)
    return record if fresh is None else fresh


def _check_pace(house: House, asked: Asked, ref: str, *, waits: bool) -> None:
    now = house.clock.now()
    house.pace.check(asked.id, now, ref, waits=waits, approval=_told(house, asked, now))


async def _known(house: House, step: Step) -> ApprovalRecord:
    found = await house.approvals.approval_of(step.id)
    if found is None:
        raise Refused("expired_token", "the approval is over and gone")
    return found


def _raise_news(house: House, approval: ApprovalRecord, now: float) -> None:
    state, asked = approval.state, approval.asked
    if state == "asked" and now < asked.expires_at:
        raise pending(house, asked, now)
    if state in ("asked", "expired"):
        raise Refused("expired_token", "nobody signed in time", rule="approval")
    if state in ("denied", "cancelled"):
        raise Refused("access_denied", f"the approval was {state}", rule="approval")


def pending(house: House, asked: Asked, now: float) -> Refused:
    """What the initiator is told while persons think (RFC 8628 section 3.5 words)."""
    return Refused(
        "authorization_pending",
        "a person must sign this first; ask again, or show them the page",
        rule=rule_of(asked.versions["policy"], asked.policies),
        retry_after=INTERVAL_S,
        ref=asked.step.ref,
        approval=_told(house, asked, now),
    )


def _told(house: House, asked: Asked, now: float) -> ApprovalAsked:
    return ApprovalAsked(
        id=asked.id,
        step=asked.step.id,
        url=house.approval_url(asked.id),
        interval=int(INTERVAL_S),
        expires_in=max(0, int(asked.expires_at - now)),
    )


async def decide_again(
    house: House, force: InForce, step: Step, question: Callable[[Party | None], Question]
) -> tuple[Question, Permit]:
    """Stages 3 and 4 of a credential: what is demanded now, held against what was signed then.

    Raises Refused(`policy`, `approval_required`).
    """
    asked = question(None)
    verdict = await weigh(force, asked)
    if isinstance(verdict, Permit):
        return asked, verdict
    record = await house.approvals.approval_of(step.id) if step.approve_by is not None else None
    if record is None or record.state not in ("given", "used") or _short(house, force, record, verdict):
        refusal = Refused(
            "approval_required",
            "more is demanded now than was signed; open the step again to ask for it",
            rule=rule_of(force.versions.policy, verdict.policies),
            who_can_change_it=f"the operator ({verdict.setting})",
        )
        refusal.decision = decision(asked, verdict, force)
        raise refusal
    asked = question(party_of(record))
    return asked, await settle(force, asked)


def _short(house: House, force: InForce, record: ApprovalRecord, verdict: NeedsApproval) -> bool:
    """Whether more is demanded now than was signed, by persons who are not frozen or revoked now."""
    standing, persons = house.store.marks(), force.registry.persons
    signed = [
        each
        for each in record.signed
        if not standing or marks.standing(standing, signer_subjects(house, each.by, persons)) is None
    ]
    return missing(record.asked, signed, persons, verdict.terms) > 0


def signer_subjects(house: House, who: Identity, persons: Persons) -> tuple[str, ...]:
    """Whatever, if marked, stops what this person signs: each of their identities."""
    return tuple(f"requester:{house.opaque(each)}" for each in sorted(persons.identities(who)))


def party_of(record: ApprovalRecord) -> Party:
    """The approval as policy sees it: which, and by how many identities."""
    return {"id": record.asked.id, "approver": f"{len(record.signed)} signed"}


def notice(house: House, event: str, record: ApprovalRecord | Asked, ref: str) -> Notice:
    """What people and systems are told: names and a link."""
    asked, signed = (record.asked, record.signed) if isinstance(record, ApprovalRecord) else (record, ())
    step, who = asked.step, asked.step.intent.requester
    return Notice(
        event=event,
        approval=asked.id,
        tenant=step.tenant,
        txn=step.txn,
        step=step.id,
        tool=asked.action.tool,
        impact=asked.action.impact,
        initiator=step.initiator,
        requester=None if who is None else Identity(who.issuer, who.subject),
        to=_may_still_sign(house, asked, signed),
        url=house.approval_url(asked.id),
        asked_at=float(asked.asked_at),
        expires_at=float(asked.expires_at),
        ref=ref,
    )


def _may_still_sign(house: House, asked: Asked, signed: Sequence[Signed]) -> tuple[str, ...]:
    """The persons of the operator's list whose signature would count, and is not there."""
    persons = house.settings.now_in_force().registry.persons
    there = {persons.name(each.by) for each in signed}
    return tuple(
        name
        for name, theirs in sorted(persons.links.items())
        if name not in there and any(may_sign(asked, each, persons) for each in theirs)
    )

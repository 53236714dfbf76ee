"""Issue one credential: eight stages, the same numbers in code, docs, metrics and ledger.

1 attest   who asks: done at the edge, once per connection and bundle generation
2 place    which step, which line of its plan
3 decide   may it, now
4 approve  who else must have said yes
5 reserve  marks, versions, limits, budget, grant, entry, epoch: ONE atomic call
6 mint     from the stored plan
7 check    our own output against the plan
8 deliver
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from stepwrit.digest import request_digest_of
from stepwrit.tokens import CredentialClaims
from stepwrit.wire import CREDENTIAL_MAX_S, RequestDetails
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.clocks import runs_until
from stepwrit_broker.core.document import Party, credential_question
from stepwrit_broker.core.errors import Conflict, Problem, Refused
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.ids import is_id, shard_of
from stepwrit_broker.core.limits import Charge
from stepwrit_broker.core.plan import line_for
from stepwrit_broker.core.step import Action, Step, StepRecord
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.flows.asking import check_not_pending, decide_again, is_news
from stepwrit_broker.flows.house import (
    House,
    Stages,
    caller_subjects,
    check_performer,
    decided_afresh,
    decision,
    normalised,
    operation,
    proof_uses,
    requester_name,
    same_tenant,
    subject_of,
)
from stepwrit_broker.flows.knowing import within
from stepwrit_broker.flows.obliged import shortened
from stepwrit_broker.ports import Evidence, InForce, ReserveCommand

KIND = "action_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """The credential, once, to its owner. Its repr shows no secret."""

    record: GrantRecord
    step: Step
    credential: str
    expires_in: int

    def __repr__(self) -> str:
        """Names only."""
        return f"Issued(grant={self.record.grant.id})"


async def issue(
    house: House,
    caller: Caller,
    subject: str,
    audience: str,
    details: RequestDetails,
    op_id: str,
    digest: str,
    stages: Stages,
) -> Issued:
    """One credential for one request of one step. `subject`: the step's id, proved by the SVID, or its token.

    Raises: Malformed, Unproven, Refused, Conflict, Unavailable; whatever is raised, nothing was granted.
    """
    about: dict[str, object] = {
        "step": subject[:64] if is_id("stp", subject) else "",
        "audience": audience[:300],
    }
    try:
        stages.mark("attest")
        return await decided_afresh(
            lambda: _attempt(house, caller, subject, audience, details, op_id, digest, stages, about)
        )
    except Problem as problem:
        if not is_news(problem):
            await house.refusals.note(problem, caller, "credential", about)
        raise


async def _attempt(
    house: House,
    caller: Caller,
    subject: str,
    audience: str,
    details: RequestDetails,
    op_id: str,
    digest: str,
    stages: Stages,
    about: dict[str, object],
) -> Issued:
    now, force = house.clock.now(), house.settings.now_in_force()
    record, action = await step_of(house, caller, subject, now)
    about.update(txn=record.step.txn, step=record.step.id)
    placed, person, times = place(house, caller, record, action, audience, details, force, now)  # 2
    about["tool"] = action.tool
    stages.mark("place")
    question_with = await questions(house, force, caller, record.step, audience, now)
    question, verdict = await decide_again(house, force, record.step, question_with)  # 3, 4
    grant = _planned(house, record.step, action, shortened(placed, record.step, verdict), person)
    stages.mark("decide")
    reserved = await house.store.reserve(  # 5
        ReserveCommand(
            op=operation(caller, "credential", op_id, digest),
            grant=grant,
            caller=caller.workload.id,
            line_times=times,
            proofs=proof_uses(caller),
            subjects=(*caller_subjects(caller), f"resource:{audience}"),
            charge=charge_of(record.step, caller, action, audience),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial}, decision=decision(question, verdict, force)
            ),
            now=now,
        )
    )
    stages.mark("reserve")
    kind = house.kinds[grant.kind]
    made = kind.mint(reserved.grant, now)  # 6
    stages.mark("mint")
    kind.check(reserved.grant, made, now)  # 7
    stages.mark("check")
    return Issued(
        record=reserved,
        step=record.step,
        credential=made,
        expires_in=max(0, int(reserved.grant.expires_at - now)),
    )  # 8


async def questions(
    house: House, force: InForce, caller: Caller, step: Step, audience: str, now: float
) -> Callable[[Party | None], Question]:
    """What policy is asked of a credential of the step for this audience, by the approval that there is."""
    initiator = force.registry.entry_for(step.initiator)
    known = await within(house, step, force)

    def question_with(approval: Party | None) -> Question:
        return credential_question(
            caller=caller,
            step=step,
            initiator=initiator,
            redeemer=force.registry.resource(audience),
            home=house.trust_domain,
            now=now,
            influence=known.influence,
            workflow=known.workflow,
            approval=approval,
        )

    return question_with


async def step_of(house: House, caller: Caller, subject: str, now: float) -> tuple[StepRecord, Action]:
    """The step by its id (the SVID proves the performer), or by a token that names it."""
    step_id = subject if is_id("stp", subject) else house.step_tokens.read(subject, now).step
    record = same_tenant(await house.store.step(step_id), caller)
    if record.step.action is None:
        raise Refused("no_step", "an intent has no action and never yields a credential")
    check_performer(record, caller)
    check_not_pending(record)
    if record.life.performer is None:
        raise Conflict("wrong_state", "the step has not been accepted")
    return record, record.step.action


def place(
    house: House,
    caller: Caller,
    record: StepRecord,
    action: Action,
    audience: str,
    details: RequestDetails,
    force: InForce,
    now: float,
) -> tuple[Grant, tuple[str, str] | None, int]:
    """Stage 2: the grant as it would be before its plan, the person that it may name, and how often its line
    of the plan may be used.

    Raises Malformed, Refused(`invalid_target`, `plan`).
    """
    step = record.step
    resource = force.registry.resource(audience)
    if resource is None or resource.tenant != step.tenant:
        raise Refused("invalid_target", "no registered resource has this audience", rule="registry")
    url = normalised(details.url, "invalid_authorization_details")
    line = line_for(action.plan, details.method, url, audience)
    grant = Grant(
        id=house.id("grt", shard_of(step.id)),
        step=step.id,
        txn=step.txn,
        kind=KIND,
        tenant=step.tenant,
        audience=audience,
        performer=caller.workload.id,
        jkt=caller.jkt or "",
        request=request_digest_of(details.method, url, details.body),
        method=details.method,
        url=url,
        plan_line=line,
        is_self=False,
        issued_at=now,
        expires_at=_ends(caller, record, force, now),
        epoch=house.store.epoch,
        ref=house.ref(),
        claims="",
    )
    person = _person(step) if resource.person_claims else None
    return grant, person, action.plan[line].times


def _ends(caller: Caller, record: StepRecord, force: InForce, now: float) -> float:
    """Never longer than the hard cap, the SVID and the step."""
    lives = force.limits.lives
    end = min(now + min(lives.credential_s, CREDENTIAL_MAX_S), caller.workload.expires_at)
    return float(int(min(end, runs_until(lives, record))))


def _person(step: Step) -> tuple[str, str] | None:
    """The person's own identifiers (RFC 9493), for an audience that the registry names."""
    requester = step.intent.requester
    return None if requester is None else (requester.issuer, requester.subject)


def _planned(house: House, step: Step, action: Action, grant: Grant, person: tuple[str, str] | None) -> Grant:
    """The grant with its stored plan: all that the credential will say, and no secret."""
    claims = CredentialClaims(
        issuer=house.issuer,
        audience=grant.audience,
        subject=subject_of(step),
        performer=grant.performer,
        chain=_actors(step, grant.performer),
        jkt=grant.jkt,
        txn=step.txn,
        step=step.id,
        grant=grant.id,
        origin=step.origin,
        server=action.server,
        tool=action.tool,
        impact=action.impact,
        args=action.args,
        method=grant.method,
        url=grant.url,
        request=grant.request,
        iat=int(grant.issued_at),
        exp=int(grant.expires_at),
        person=person,
    )
    return replace(grant, claims=json.dumps(claims.claims(), separators=(",", ":")))


def _actors(step: Step, performer: str) -> tuple[str, ...]:
    """RFC 8693 section 4.1: the current actor first, then whoever acted before, back to the first."""
    return (performer, *(hop.initiator for hop in reversed(step.chain)))


def charge_of(step: Step, caller: Caller, action: Action, audience: str) -> Charge:
    """What a credential of the step is counted by."""
    return Charge(
        on="credentials",
        values={
            "workload": caller.workload.id,
            "tool": action.tool,
            "resource": audience,
            "requester": requester_name(step.intent.requester) or "",
            "origin": step.origin,
            "tenant": step.tenant,
        },
    )

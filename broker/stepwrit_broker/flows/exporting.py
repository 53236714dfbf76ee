"""Grant one of our steps to the broker of another trust domain, where its tool is: an ID-JAG, once per step.

The step's initiator takes it over there and stands in for the foreign performer here: it says that the call
is alive, and how it ended. Opened, decided, limited and revoked like any other step of ours; what
happens over there is that side's to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from stepwrit.digest import canonical
from stepwrit.wire_chain import GRANT_S
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.document import Party, export_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.ids import is_id, shard_of
from stepwrit_broker.core.jag import GrantClaims, grant_digest
from stepwrit_broker.core.limits import Charge
from stepwrit_broker.core.peers import Peer
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.step import Action, Step, StepRecord
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.flows.asking import check_not_pending, decide_again, is_news
from stepwrit_broker.flows.house import (
    House,
    caller_subjects,
    decided_afresh,
    decision,
    operation,
    proof_uses,
    requester_of,
    same_tenant,
    subject_of,
)
from stepwrit_broker.flows.issue import charge_of
from stepwrit_broker.flows.knowing import within
from stepwrit_broker.ports import AcceptCommand, Evidence, InForce, ReserveCommand

KIND = "id_jag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The grant, once, to the step's initiator. Its repr shows no secret."""

    record: GrantRecord
    step: Step
    peer: Peer
    made: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """Stage 2: which step, whose tool, and the peer whose broker it belongs to."""

    record: StepRecord
    action: Action
    entry: Entry
    peer: Peer


async def export(
    house: House, caller: Caller, step_id: str, audience: str, op_id: str, digest: str
) -> Exported:
    """A grant for the one action of the caller's own step, for the broker that calls itself `audience`.

    Raises: Malformed, Unproven, Refused(`invalid_target`, `replay`, `policy`, `limit`, …), Conflict,
    Unavailable; whatever is raised, nothing was granted.
    """
    about: dict[str, object] = {"step": step_id[:64], "audience": audience[:300]}
    try:
        return await decided_afresh(lambda: _attempt(house, caller, step_id, audience, op_id, digest, about))
    except Problem as problem:
        if not is_news(problem):
            await house.refusals.note(problem, caller, "export", about)
        raise


async def _attempt(
    house: House,
    caller: Caller,
    step_id: str,
    audience: str,
    op_id: str,
    digest: str,
    about: dict[str, object],
) -> Exported:
    now, force = house.clock.now(), house.settings.now_in_force()
    placed = await _place(house, caller, step_id, audience, force)  # 2
    step = placed.record.step
    about.update(txn=step.txn, tool=placed.action.tool)
    asked = await _questions(house, force, caller, placed, now)
    question, verdict = await decide_again(house, force, step, asked)  # 3, 4
    grant = _planned(house, caller, placed, now)
    said = {"issuer": placed.peer.issuer, "digest": grant_digest(grant.claims.encode())}
    subjects = (*caller_subjects(caller), *placed.peer.subjects(), f"resource:{placed.peer.issuer}")
    await house.store.accept(  # the initiator stands in; a second grant of the step is refused here
        AcceptCommand(
            op=operation(caller, "export", op_id, digest),
            step=step.id,
            caller=caller.workload.id,
            round=1,
            subjects=subjects,
            proofs=proof_uses(caller),
            self_grant=None,
            evidence=Evidence(facts={"svid": caller.workload.serial, "stands_in_for": placed.entry.id}),
            now=now,
            versions=force.versions,
            stands_in=True,
        )
    )
    reserved = await house.store.reserve(  # 5
        ReserveCommand(
            op=operation(caller, "export_grant", op_id, digest),
            grant=grant,
            caller=caller.workload.id,
            line_times=1,
            proofs=(),
            subjects=subjects,
            charge=_charge(caller, placed),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial, "export": said},
                decision={**decision(question, verdict, force), "grant": grant.claims},
            ),
            now=now,
        )
    )
    kind = house.kinds[KIND]
    made = kind.mint(reserved.grant, now)  # 6
    kind.check(reserved.grant, made, now)  # 7
    return Exported(
        record=reserved,
        step=step,
        peer=placed.peer,
        made=made,
        expires_in=max(0, int(reserved.grant.expires_at - now)),
    )  # 8


async def _place(house: House, caller: Caller, step_id: str, audience: str, force: InForce) -> _Placed:
    if not is_id("stp", step_id):
        raise Malformed("invalid_request", "subject_token: the id of a step")
    record = same_tenant(await house.store.step(step_id), caller)
    action = record.step.action
    if record.step.initiator != caller.workload.id or action is None:
        raise Refused("not_found", "no such step")
    if record.step.initiator_jkt != caller.jkt:
        raise Unproven("invalid_proof", "the step was opened with another key", rule="cnf")
    check_not_pending(record)
    if record.step.deferred:
        raise Refused("not_yet_supported", "a deferred step stays in its own trust domain")
    entry = force.registry.server(action.tool.partition("/")[0])
    peer = None if entry is None or entry.issuer is None else force.registry.peer(entry.issuer)
    if entry is None or peer is None or peer.issuer != audience:
        raise Refused(
            "invalid_target",
            "the step's tool does not belong to that broker",
            rule="registry peers",
            who_can_change_it="the operator (registry.yaml)",
        )
    return _Placed(record=record, action=action, entry=entry, peer=peer)


async def _questions(
    house: House, force: InForce, caller: Caller, placed: _Placed, now: float
) -> Callable[[Party | None], Question]:
    known = await within(house, placed.record.step, force)

    def question_with(approval: Party | None) -> Question:
        return export_question(
            caller=caller,
            step=placed.record.step,
            performer=placed.entry,
            home=house.trust_domain,
            now=now,
            influence=known.influence,
            workflow=known.workflow,
            approval=approval,
        )

    return question_with


def _planned(house: House, caller: Caller, placed: _Placed, now: float) -> Grant:
    """The grant with its stored plan: all that it will say, and no secret."""
    step, action = placed.record.step, placed.action
    end = float(int(min(now + GRANT_S, caller.workload.expires_at)))
    name = house.id("grt", shard_of(step.id))
    claims = GrantClaims(
        issuer=house.issuer,
        subject=requester_of(house.pepper, placed.peer.issuer, subject_of(step)).opaque,
        audience=placed.peer.issuer,
        client=caller.workload.id,
        jkt=caller.jkt or "",
        jti=name,
        iat=int(now),
        exp=int(end),
        server=placed.entry.id,
        tool=action.tool.partition("/")[2],
        impact=action.impact,
        args=action.args,
        chain=tuple(hop.initiator for hop in reversed(step.chain)),
        step=step.id,
        txn=step.txn,
        ref=step.ref,
        origin=step.origin,
        person=_person(step) if placed.peer.person_claims else None,
    )
    return Grant(
        id=name,
        step=step.id,
        txn=step.txn,
        kind=KIND,
        tenant=step.tenant,
        audience=placed.peer.issuer,
        performer=caller.workload.id,
        jkt=caller.jkt or "",
        request=action.args,
        method="",
        url="",
        plan_line=0,
        is_self=False,
        issued_at=now,
        expires_at=end,
        epoch=house.store.epoch,
        ref=house.ref(),
        claims=canonical(claims.claims()).decode(),
    )


def _person(step: Step) -> tuple[str, str] | None:
    """The person's own identifiers (RFC 9493), for a peer that the registry names."""
    requester = step.intent.requester
    return None if requester is None else (requester.issuer, requester.subject)


def _charge(caller: Caller, placed: _Placed) -> Charge:
    """As for a credential at a resource, and by the peer."""
    peer = placed.peer.issuer
    counted = charge_of(placed.record.step, caller, placed.action, peer)
    return replace(counted, values={**counted.values, "peer": peer})

"""Start a transaction: an agent's for a person, a trigger's, or a server's for a call without a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwrit import intents
from stepwrit.wire import IntentRequest, Origin, Proof
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.causes import performer_of
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.document import intent_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.core.ids import is_id, shard_of
from stepwrit_broker.core.limits import Charge, Dimension, Limits
from stepwrit_broker.core.step import Intent, Step, StepRecord
from stepwrit_broker.flows import stepless
from stepwrit_broker.flows.house import (
    House,
    caller_subjects,
    decided_afresh,
    decision,
    first_token,
    operation,
    proof_uses,
    requester_of,
    settle,
)
from stepwrit_broker.flows.obliged import obliged
from stepwrit_broker.ports import Evidence, InForce, OpenCommand, PersonProof, ProofUse

PURPOSE_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentStarted:
    """The root, and the token that names it."""

    record: StepRecord
    token: str = field(repr=False)
    expires_in: int


def bound_nonce(agent: str, request: IntentRequest) -> str:
    """What binds a person's proof to this agent, ceiling, purpose and end."""
    return intents.bound_nonce(agent, request.ceiling, request.purpose, request.exp, v=request.v)


async def start_intent(
    house: House, caller: Caller, request: IntentRequest, id_token: str | None, op_id: str, digest: str
) -> IntentStarted:
    """One root in one write; a repeat of the same operation gets the same root.

    Raises: Malformed, Refused(`human_proof`, `ceiling`, `no_step`, `policy`, `limit`, …), Unavailable.
    """
    try:
        if not request.purpose.strip() or len(request.purpose) > PURPOSE_MAX:
            raise Malformed("invalid_request", f"purpose: 1 to {PURPOSE_MAX} characters")
        _check_cause(caller, request)
        proof = await _person(house, caller, request, id_token)
        return await decided_afresh(lambda: _attempt(house, caller, request, proof, op_id, digest))
    except Problem as problem:
        await house.refusals.note(problem, caller, "intent", {"purpose_given": bool(request.purpose)})
        raise


def _check_cause(caller: Caller, request: IntentRequest) -> None:
    """A cause is named by a trigger, and always by one whose events come from steps alone."""
    if request.cause is None:
        if caller.entry.needs_cause:
            raise Refused(
                "no_step",
                "this trigger passes on events of steps alone: name the step as `cause`",
                rule="registry needs_cause",
                who_can_change_it="the operator (registry.yaml)",
            )
        return
    if not is_id("stp", request.cause):
        raise Malformed("invalid_request", "cause: the id of the step that made the event")
    if caller.entry.role != "trigger":
        raise Malformed("invalid_request", "cause: only a trigger's intent has one")


async def _person(
    house: House, caller: Caller, request: IntentRequest, id_token: str | None
) -> PersonProof | None:
    """Who is behind it: a person for an agent, nobody for a trigger or a call without a step."""
    if request.without_step is not None:
        stepless.check(caller, request.without_step, id_token)
        return None
    if caller.entry.role == "trigger":
        if id_token is not None:
            raise Refused("human_proof", "a trigger cannot act for a person")
        return None
    if caller.entry.role != "agent":
        raise Refused("origin_claimed", f"a workload of role {caller.entry.role} cannot start an intent")
    if id_token is None:
        raise Refused("human_proof", "an agent needs the person's ID token")
    proof = await house.people.judge(id_token, house.clock.now())
    _check_person(caller, proof, house.clock.now())
    return proof


def _check_person(caller: Caller, proof: PersonProof, now: float) -> None:
    registered = {(client.issuer, client.client_id) for client in caller.entry.clients}
    if not proof.clients or any((proof.issuer, client) not in registered for client in proof.clients):
        raise Refused(
            "human_proof",
            "the ID token was not made for this agent",
            rule="registry clients",
            who_can_change_it="the operator (registry.yaml)",
        )
    if proof.may_act not in (None, caller.workload.id):  # it takes away, and never admits
        raise Refused("human_proof", "the ID token's may_act names another actor", rule="may_act")
    if now - proof.auth_time > caller.entry.max_auth_age_s:
        raise Refused(
            "human_proof",
            "the person signed in too long ago; ask for a fresh sign-in with max_age",
            rule="max_auth_age",
        )


async def _attempt(
    house: House, caller: Caller, request: IntentRequest, proof: PersonProof | None, op_id: str, digest: str
) -> IntentStarted:
    now, force = house.clock.now(), house.settings.now_in_force()
    step = _place(house, caller, request, proof, force, now)  # 2
    cause = await _cause(house, caller, request)
    question = intent_question(caller=caller, step=step, home=house.trust_domain, now=now)
    verdict = await settle(force, question)  # 3, 4
    record = await house.store.open(  # 5
        OpenCommand(
            op=operation(caller, "intent", op_id, digest),
            step=obliged(step, verdict),
            proofs=(*proof_uses(caller), *_once(proof)),
            subjects=caller_subjects(caller),
            charge=Charge(on="intents", values=_values(step, caller) | cause),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial, **stepless.facts(step.intent)},
                decision=_decided(step, decision(question, verdict, force)),
            ),
            now=now,
        )
    )
    token, life = first_token(house, record.step, caller.jkt or "", now, force.limits.lives.step_token_s)  # 6
    return IntentStarted(record=record, token=token, expires_in=life)


def _decided(step: Step, decided: dict[str, object]) -> dict[str, object]:
    requester = step.intent.requester
    person = None if requester is None else {"issuer": requester.issuer, "subject": requester.subject}
    return {**decided, "requester": person, "purpose": step.intent.purpose}


def _once(proof: PersonProof | None) -> tuple[ProofUse, ...]:
    return (
        () if proof is None else (ProofUse(kind="id_token", key=proof.digest, until=proof.until + 86_400.0),)
    )


async def _cause(house: House, caller: Caller, request: IntentRequest) -> dict[Dimension, str]:
    """Who performed the step that made the event, to be counted by."""
    if request.cause is None:
        return {}
    return {"cause": performer_of(await house.store.step(request.cause), caller.entry.tenant)}


def _values(step: Step, caller: Caller) -> dict[Dimension, str]:
    values: dict[Dimension, str] = {
        "workload": caller.workload.id,
        "origin": step.origin,
        "tenant": step.tenant,
    }
    if step.intent.requester is not None:
        values["requester"] = step.intent.requester.opaque
    return values


def _place(
    house: House,
    caller: Caller,
    request: IntentRequest,
    proof: PersonProof | None,
    force: InForce,
    now: float,
) -> Step:
    ends = min(float(request.exp), now + force.limits.lives.intent_s)
    if request.without_step is not None:
        ends = min(ends, now + force.limits.lives.accepted_s)
    if ends <= now:
        raise Malformed("invalid_request", "exp is in the past")
    origin: Origin = "server" if proof is None else "human"
    txn = house.txn()
    return Step(
        id=house.id("stp", shard_of(txn)),
        txn=txn,
        intent=_intent(house, caller, request, proof, txn, force.limits),
        parent=None,
        ancestors=(),
        chain=(),
        initiator=caller.workload.id,
        initiator_jkt=caller.jkt or "",
        performer=caller.workload.id,
        origin=origin,
        action=None,
        ceiling=_ceiling(caller, request),
        tenant=caller.entry.tenant,
        deferred=False,
        opened_at=now,
        expires_at=ends,
        ref=house.ref(),
    )


def _ceiling(caller: Caller, request: IntentRequest) -> Ceiling:
    if request.without_step is not None:
        return stepless.ceiling(caller, request.without_step)
    registered, asked = caller.entry.may_start, Ceiling.of(request.ceiling)
    if registered is None:
        raise Refused("ceiling", "the registry lets this workload start nothing", rule="registry may_start")
    if caller.entry.role == "trigger":
        return registered
    effective = asked.meet(registered)
    if not effective.tools:
        raise Refused(
            "ceiling",
            "nothing that was asked for lies within the registry's ceiling",
            rule="registry may_start",
        )
    return effective


def _intent(
    house: House, caller: Caller, request: IntentRequest, proof: PersonProof | None, txn: str, limits: Limits
) -> Intent:
    bounds, budget = limits.transaction, request.budget
    tool = None if request.without_step is None else stepless.name(caller, request.without_step)
    return Intent(
        txn=txn,
        requester=None if proof is None else requester_of(house.pepper, proof.issuer, proof.subject),
        owner=caller.entry.owner,
        proof=None if proof is None else _kind_of(proof, caller, request),
        purpose=request.purpose if tool is None else stepless.purpose(tool),
        cause=request.cause,
        steps_max=_least(budget.steps, bounds.steps),
        server_steps_max=_least(budget.server_steps, bounds.server_steps),
        depth_max=_least(budget.depth, bounds.depth),
        without_step=tool,
    )


def _least(asked: int | None, limit: int) -> int:
    return limit if asked is None else max(0, min(asked, limit))


def _kind_of(proof: PersonProof, caller: Caller, request: IntentRequest) -> Proof:
    return "bound" if proof.nonce == bound_nonce(caller.workload.id, request) else "presented"

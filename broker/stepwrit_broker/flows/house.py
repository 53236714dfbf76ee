"""What every verb is built of: the ports, and the few steps that all verbs share."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from stepwrit.digest import DigestError, canonical, normalise_url
from stepwrit.tokens import StepToken
from stepwrit_broker.core import ids, marks
from stepwrit_broker.core.answer import answer_of
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.obligations import redacted, shown
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import Requester, Step, StepRecord
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.flows.obliged import check_obligations
from stepwrit_broker.flows.pace import Pace
from stepwrit_broker.ports import (
    Clock,
    Credentials,
    Entropy,
    InForce,
    KindPort,
    Operation,
    PersonProofs,
    ProofUse,
    Settings,
    StepTokens,
    Store,
)
from stepwrit_broker.ports_approval import ApprovalStore, Bell, Notices, Sealer
from stepwrit_broker.ports_ended import Ends

STALE_TRIES = 3
_T = TypeVar("_T")


class Refusals(Protocol):
    """Where refusals go: the ledger, rate-capped, and the metrics."""

    async def note(self, problem: Problem, caller: Caller, verb: str, about: Mapping[str, object]) -> None:
        """Give the problem a ref and record it. Never raises."""
        ...

    async def note_person(self, problem: Problem, person: str, verb: str, approval: str) -> None:
        """The same of a person who is signed in, by their opaque id. Never raises."""
        ...


class Stages(Protocol):
    """Times the eight stages; a no-op costs nothing."""

    def mark(self, stage: str) -> None:
        """The stage ends here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The composition that the verbs work with."""

    issuer: str
    trust_domain: str
    clock: Clock
    entropy: Entropy
    store: Store
    settings: Settings
    step_tokens: StepTokens
    credentials: Credentials
    kinds: Mapping[str, KindPort]
    people: PersonProofs
    pepper: bytes
    refusals: Refusals
    approvals: ApprovalStore
    sealer: Sealer
    notices: Notices
    bell: Bell
    ends: Ends
    pace: Pace = field(default_factory=Pace)
    shards: int = 1

    def ref(self) -> str:
        """A fresh ref."""
        return ids.make_ref(self.entropy.bytes(ids.REF_BYTES))

    def opaque(self, who: Identity) -> str:
        """The broker's own id of a person: equal for equal pairs, unguessable without the pepper."""
        return requester_of(self.pepper, who.issuer, who.subject).opaque

    def approval_url(self, approval: str) -> str:
        """The page where persons see and sign it."""
        return f"{self.issuer}/approvals/{approval}"

    def operation_name(self) -> str:
        """A name for one try by a caller that gave none."""
        return ids.crockford(self.entropy.bytes(ids.RANDOM_BYTES), 26)

    def txn(self) -> str:
        """A fresh id of a transaction, in any shard; all that belongs to it lives there."""
        return self.id("txn", f"{self.entropy.bytes(1)[0] % self.shards:02x}")

    def id(self, kind: ids.Kind, shard: str = "00") -> str:
        """A fresh id."""
        return ids.make_id(kind, shard, self.entropy.bytes(ids.RANDOM_BYTES))


async def decided_afresh(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Try again, STALE_TRIES times in all, while what was decided on is replaced before it is reserved on."""
    for _ in range(STALE_TRIES - 1):
        try:
            return await attempt()
        except Conflict as stale:
            if stale.code != "stale_version":
                raise
    return await attempt()


def proof_uses(caller: Caller) -> tuple[ProofUse, ...]:
    """The caller's key proof, to be used once (RFC 9449 section 11.1)."""
    if caller.jkt is None:
        raise Unproven("invalid_proof", "this request needs a DPoP proof")
    return (ProofUse(kind="dpop", key=f"{caller.jkt}.{caller.proof_jti}", until=caller.proof_until),)


def same_tenant(record: StepRecord | None, caller: Caller) -> StepRecord:
    """The record, if the caller may know of it: unknown and not-yours look alike."""
    if record is None or record.step.tenant != caller.entry.tenant:
        raise Refused("not_found", "no such step")
    return record


def check_performer(record: StepRecord, caller: Caller) -> None:
    """To a workload that neither performs the step nor is named to, it looks like none."""
    own, who = record.life.performer, caller.workload.id
    if who != own and (own is not None or not matches(record.step.performer, who)):
        raise Refused("not_found", "no such step")


async def settle(force: InForce, question: Question) -> Permit:
    """Stages 3 and 4 where nobody can be asked: the verdict, or the refusal it means. Empty means no."""
    verdict = await weigh(force, question)
    if isinstance(verdict, Permit):
        return verdict
    refusal = Refused(
        "approval_required",
        "this needs a person's signature, which cannot be given here",
        rule=rule_of(force.versions.policy, verdict.policies),
        who_can_change_it=f"the operator ({verdict.setting})",
    )
    raise _on_record(refusal, question, verdict, force)


async def weigh(force: InForce, question: Question) -> Permit | NeedsApproval:
    """Stage 3: the verdict, or the refusal it means, with the decision that it was. Empty means no."""
    verdict = await force.policy.decide(question)
    try:
        return _permitted(force, question, verdict)
    except Refused as refusal:
        raise _on_record(refusal, question, verdict, force) from None


def _on_record(refusal: Refused, question: Question, verdict: Verdict, force: InForce) -> Refused:
    """With the decision that it was, and the ref of the step that is not to be."""
    refusal.decision = decision(question, verdict, force)
    if question.asking != "issue_credential":
        refusal.ref = question.ref or None
    return refusal


def _permitted(force: InForce, question: Question, verdict: Verdict) -> Permit | NeedsApproval:
    if isinstance(verdict, Deny):
        raise Refused(
            "policy",
            verdict.reason,
            rule=rule_of(force.versions.policy, verdict.policies),
            who_can_change_it="the operator (policy)",
        )
    check_obligations(force.versions.policy, question, verdict)
    return verdict


def rule_of(version: int, policies: tuple[str, ...]) -> str:
    """How a refusal names what decided: the policy's version and the determining policies."""
    return f"policy v{version} {','.join(policies) or 'default'}"


def _kept(question: Question, verdict: Verdict) -> dict[str, object]:
    """The decision document without the facts that are not to be kept, and their names."""
    facts = cast("Mapping[str, object]", question.document["facts"])
    kept = shown(facts, redacted(question.held) | verdict.redact)
    left_out = sorted(facts.keys() - kept.keys())
    document = {**question.document, "facts": kept}
    return {"document": document, **({"redacted": left_out} if left_out else {})}


def decision(question: Question, verdict: Verdict, force: InForce) -> dict[str, object]:
    """What is kept beside the log: the document, the answer and the versions."""
    return {
        **_kept(question, verdict),
        **answer_of(verdict).as_json,
        "versions": {
            "policy": force.versions.policy,
            "registry": force.versions.registry,
            "limits": force.versions.limits,
            "bundles": force.versions.bundles,
        },
    }


def first_token(house: House, step: Step, jkt: str, now: float, life_s: float) -> tuple[str, int]:
    """Stage 6 for a new step: never beyond the step's own end."""
    return step_token(house, step, jkt, now, min(life_s, step.expires_at - now))


def step_token(house: House, step: Step, jkt: str, now: float, life_s: float) -> tuple[str, int]:
    """A token that names a step, and its life in whole seconds."""
    life, tool = max(1, int(life_s)), step.action.tool if step.action is not None else None
    token = StepToken(
        issuer=house.issuer,
        trust_domain=house.trust_domain,
        txn=step.txn,
        step=step.id,
        subject=subject_of(step),
        scope=tool or "intent",
        initiator=step.initiator,
        initiator_jkt=jkt,
        performer=step.performer,
        origin=step.origin,
        tool=tool,
        args=step.action.args if step.action is not None else None,
        purpose=step.intent.purpose,
        intent_origin="human" if step.intent.requester is not None else "server",
        proof=step.intent.proof,
        iat=int(now),
        exp=int(now) + life,
        jti=ids.crockford(house.entropy.bytes(ids.RANDOM_BYTES), 26),
        parent=step.parent,
    )
    return house.step_tokens.mint(token, now), life


def subject_of(step: Step) -> str:
    """The requester's opaque id; for a trigger's transaction the trigger itself."""
    if step.intent.requester is not None:
        return step.intent.requester.opaque
    return step.chain[0].initiator if step.chain else step.initiator


def caller_subjects(caller: Caller) -> tuple[str, ...]:
    """What stops this caller whatever the step: the store itself tests the step and all above it."""
    return marks.subjects_of_caller(caller)


def step_subjects(step: Step, caller: Caller) -> tuple[str, ...]:
    """Everything whose mark stops this caller on this step."""
    return (*marks.subjects_of_step(step), *caller_subjects(caller))


def operation(caller: Caller, verb: str, op_id: str, digest: str) -> Operation:
    """The caller's name for this try."""
    return Operation(caller=caller.workload.id, key=caller.jkt or "", verb=verb, id=op_id, digest=digest)


def normalised(url: str, code: str) -> str:
    """The URL as it is digested and matched. Raises Malformed(`code`)."""
    try:
        return normalise_url(url)
    except DigestError as bad:
        raise Malformed(code, str(bad)) from bad


def requester_of(pepper: bytes, issuer: str, subject: str) -> Requester:
    """The broker's own opaque id of a person: equal for equal pairs, unguessable without the pepper."""
    digest = hashlib.sha256(pepper + canonical([issuer, subject])).hexdigest()
    return Requester(opaque=f"per_{digest[:26]}", issuer=issuer, subject=subject)


def requester_name(requester: Requester | None) -> str | None:
    """What the chain's members may know of the person: the broker's opaque id."""
    return requester.opaque if requester is not None else None

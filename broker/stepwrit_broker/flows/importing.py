"""Start a root with a grant of another trust domain's broker (RFC 7523 section 2.1, ID-JAG section 4.4).

The caller proves itself here like any other, by its own SVID, and by the key that the grant names. What the
peer says of origin, requester and chain is recorded as its word; ours is the lower of that and what our
registry allows it.
"""

from __future__ import annotations

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import impact_within
from stepwrit_broker.core.document import intent_question
from stepwrit_broker.core.errors import Problem, Refused, Unproven
from stepwrit_broker.core.ids import shard_of
from stepwrit_broker.core.limits import Charge, Limits
from stepwrit_broker.core.peers import check_peer, imported_origin
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.step import Intent, Step, Upstream
from stepwrit_broker.flows.house import (
    House,
    caller_subjects,
    decided_afresh,
    decision,
    first_token,
    operation,
    proof_uses,
    settle,
)
from stepwrit_broker.flows.intent import IntentStarted
from stepwrit_broker.flows.obliged import obliged
from stepwrit_broker.flows.targets import registered
from stepwrit_broker.ports import Evidence, InForce, OpenCommand, ProofUse
from stepwrit_broker.ports_peer import PeerGrants, VerifiedGrant

STARTS = frozenset({"agent", "mcp-server"})
KEPT_S = 60.0  # that a grant was used is remembered beyond its end for this long


async def start_granted(
    house: House, grants: PeerGrants, caller: Caller, assertion: str, op_id: str, digest: str
) -> IntentStarted:
    """The root, for the one step that the grant is for; a grant starts one.

    Raises: Unproven(`invalid_grant`, `invalid_proof`), Refused(`replay`, `ceiling`, `policy`, `limit`, …),
    Unavailable; whatever is raised, nothing was started.
    """
    about: dict[str, object] = {}
    try:
        return await decided_afresh(lambda: _attempt(house, grants, caller, assertion, op_id, digest, about))
    except Problem as problem:
        await house.refusals.note(problem, caller, "import", about)
        raise


async def _attempt(
    house: House,
    grants: PeerGrants,
    caller: Caller,
    assertion: str,
    op_id: str,
    digest: str,
    about: dict[str, object],
) -> IntentStarted:
    now, force = house.clock.now(), house.settings.now_in_force()
    mine = {each.issuer: each for each in force.registry.peers if each.tenant == caller.entry.tenant}
    grant = await grants.judge(assertion, mine, now)
    about["upstream"] = {"issuer": grant.peer.issuer, "digest": grant.digest}
    _check_holder(house, caller, grant)
    step = _place(house, caller, grant, force, now)  # 2
    about["tool"] = "" if step.intent.upstream is None else step.intent.upstream.tool
    question = intent_question(caller=caller, step=step, home=house.trust_domain, now=now)
    verdict = await settle(force, question)  # 3, 4
    record = await house.store.open(  # 5
        OpenCommand(
            op=operation(caller, "import", op_id, digest),
            step=obliged(step, verdict),
            proofs=(*proof_uses(caller), _once(grant)),
            subjects=(*caller_subjects(caller), *step.intent.outside),
            charge=_charge(caller, step, grant),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial},
                decision={
                    **decision(question, verdict, force),
                    "requester": None,
                    "purpose": step.intent.purpose,
                    "grant": grant.text,
                },
            ),
            now=now,
        )
    )
    token, life = first_token(house, record.step, caller.jkt or "", now, force.limits.lives.step_token_s)  # 6
    return IntentStarted(record=record, token=token, expires_in=life)


def _check_holder(house: House, caller: Caller, grant: VerifiedGrant) -> None:
    """Made for us, for this very client, and for the key that it proved in this request."""
    claims, workload = grant.claims, caller.workload
    if claims.audience != house.issuer:
        raise Unproven("invalid_grant", "the grant was made for another broker", rule="aud")
    if claims.client != workload.id:
        raise Unproven("invalid_grant", "the grant was made for another client", rule="client_id")
    if claims.jkt != caller.jkt:
        raise Unproven("invalid_grant", "the grant is bound to another key", rule="cnf")
    check_peer(workload.id, workload.trust_domain, grant.peer)
    if caller.entry.role not in STARTS:
        raise Refused("origin_claimed", f"a workload of role {caller.entry.role} brings no grants")


def _place(house: House, caller: Caller, grant: VerifiedGrant, force: InForce, now: float) -> Step:
    claims, peer = grant.claims, grant.peer
    _, tool = registered(force, caller, claims.server, claims.tool)
    if not peer.may_start.allows(tool.name, tool.impact):
        raise Refused(
            "ceiling",
            f"the registry does not let {peer.name} start {tool.name} ({tool.impact})",
            rule="registry peers",
            who_can_change_it="the operator (registry.yaml)",
        )
    if not impact_within(tool.impact, claims.impact):
        raise Refused("ceiling", f"{tool.name} has {tool.impact} impact here; less was granted", rule="grant")
    lives = force.limits.lives
    ends = now + min(lives.intent_s, lives.accepted_s)
    txn, upstream = house.txn(), _upstream(grant, tool.name)
    return Step(
        id=house.id("stp", shard_of(txn)),
        txn=txn,
        intent=_intent(house, grant, txn, upstream, force.limits),
        parent=None,
        ancestors=(),
        chain=(),
        initiator=caller.workload.id,
        initiator_jkt=caller.jkt or "",
        performer=caller.workload.id,
        origin=imported_origin(claims.origin, peer),
        action=None,
        ceiling=peer.may_start,
        tenant=peer.tenant,
        deferred=False,
        opened_at=now,
        expires_at=ends,
        ref=house.ref(),
    )


def _upstream(grant: VerifiedGrant, tool: str) -> Upstream:
    claims = grant.claims
    return Upstream(
        issuer=grant.peer.issuer,
        digest=grant.digest,
        tool=tool,
        args=claims.args,
        impact=claims.impact,
        step=claims.step,
        txn=claims.txn,
        ref=claims.ref,
        origin=claims.origin,
    )


def _intent(house: House, grant: VerifiedGrant, txn: str, upstream: Upstream, limits: Limits) -> Intent:
    bounds, peer = limits.transaction, grant.peer
    return Intent(
        txn=txn,
        requester=None,
        owner=peer.owner,
        proof=None,
        purpose=f"{upstream.tool}, granted by {peer.name}",
        cause=None,
        steps_max=bounds.steps,
        server_steps_max=bounds.server_steps,
        depth_max=bounds.depth,
        outside=(*peer.subjects(), *_person(house, grant)),
        upstream=upstream,
    )


def _person(house: House, grant: VerifiedGrant) -> tuple[str, ...]:
    """A person whom the peer names is nobody's requester here; but what stops them here stops this too."""
    person = grant.claims.person if grant.peer.person_claims else None
    if person is None:
        return ()
    return (f"requester:{house.opaque(Identity(*person))}",)


def _once(grant: VerifiedGrant) -> ProofUse:
    claims = grant.claims
    return ProofUse(kind="id_jag", key=f"{claims.issuer} {claims.jti}", until=float(claims.exp) + KEPT_S)


def _charge(caller: Caller, step: Step, grant: VerifiedGrant) -> Charge:
    return Charge(
        on="intents",
        values={
            "workload": caller.workload.id,
            "origin": step.origin,
            "tenant": step.tenant,
            "peer": grant.peer.issuer,
        },
    )

"""The decision document: what every policy engine is asked, in one shape. Pure.

Its shape is published as docs/reference/schemas/decision.schema.json. What nobody knows is `null`, never
empty; times are whole seconds since the epoch; there are no fractions anywhere. `home` is everywhere the
broker's own trust domain: policy compares it with each party's, and refuses the others unless it names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.obligations import proved
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.verdict import Asking, Question
from stepwrit_broker.core.workload import SpiffeId, trust_domain_of

DOCUMENT_V: Final = 1
MEMBERS: Final = frozenset(
    {
        *("v", "asking", "attested_by", "home", "initiator", "performer", "redeemer", "audience", "approval"),
        *("now", "tenant", "requester", "owner", "proof", "origin", "depth", "deferred", "chain"),
        *("influence", "workflow", "ceiling", "budgets", "action", "facts", "plan"),
    }
)
"""What every document has. A version only adds: one that was kept by an earlier release may lack some."""
Party = Mapping[str, object]


def intent_question(*, caller: Caller, step: Step, home: str, now: float) -> Question:
    """May this caller start the transaction whose root is `step`? The resource is the transaction's id."""
    me = _party(caller.entry, caller.workload.id, caller.workload.attested_by)
    return _question("start_intent", caller, step, _Parties(initiator=me, performer=me), home, now)


def step_question(
    *,
    caller: Caller,
    step: Step,
    performer: Entry | None,
    home: str,
    now: float,
    influence: Sequence[Party],
    workflow: Party | None,
    approval: Party | None = None,
) -> Question:
    """May this caller open `step`? `performer`: None when the initiator's own client is to perform it.

    The resource is the tool. The performer's id may still be a pattern: nobody has accepted yet. influence:
    what `core.influence.told` says of it. workflow: what `core.workflow.match` does. approval: id and
    approver of a signature over exactly this step.
    """
    me = _party(caller.entry, caller.workload.id, caller.workload.attested_by)
    other = _client(step) if performer is None else _party(performer, step.performer, None)
    parties = _Parties(
        initiator=me, performer=other, influence=influence, workflow=workflow, approval=approval
    )
    return _question("open_step", caller, step, parties, home, now)


def export_question(
    *,
    caller: Caller,
    step: Step,
    performer: Entry,
    home: str,
    now: float,
    influence: Sequence[Party],
    workflow: Party | None,
    approval: Party | None = None,
) -> Question:
    """May this caller, the step's initiator, take it to the broker of the performer's trust domain?

    The action is that of a credential, the resource is the tool; nothing of ours redeems it.
    """
    me = _party(caller.entry, caller.workload.id, caller.workload.attested_by)
    parties = _Parties(
        initiator=me,
        performer=_party(performer, step.performer, None),
        influence=influence,
        workflow=workflow,
        approval=approval,
    )
    return _question("issue_credential", caller, step, parties, home, now)


def credential_question(
    *,
    caller: Caller,
    step: Step,
    initiator: Entry | None,
    redeemer: Entry | None,
    home: str,
    now: float,
    influence: Sequence[Party],
    workflow: Party | None,
    approval: Party | None = None,
) -> Question:
    """May this caller, the step's performer, have a credential? The resource is the tool.

    initiator: the entry in force of the step's initiator. redeemer: the resource that it is for, None for a
    tool that is its own. influence, workflow, approval: as in `step_question`. Raises
    Refused(`not_registered`) when the initiator has none.
    """
    if initiator is None:
        raise Refused(
            "not_registered",
            "the step's initiator is no longer registered",
            rule="registry",
            who_can_change_it="the operator (registry.yaml)",
        )
    other = _party(initiator, step.initiator, None)
    me = _party(caller.entry, caller.workload.id, caller.workload.attested_by)
    opened = None if redeemer is None else _party(redeemer, redeemer.id, None)
    parties = _Parties(
        initiator=other,
        performer=me,
        redeemer=opened,
        audience=None if redeemer is None else redeemer.audience,
        influence=influence,
        workflow=workflow,
        approval=approval,
    )
    return _question("issue_credential", caller, step, parties, home, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parties:
    initiator: Party
    performer: Party
    redeemer: Party | None = None
    audience: str | None = None
    influence: Sequence[Party] | None = None
    workflow: Party | None = None
    approval: Party | None = None


def _question(
    asking: Asking, caller: Caller, step: Step, parties: _Parties, home: str, now: float
) -> Question:
    return Question(
        asking=asking,
        principal=caller.workload.id,
        resource=step.txn if step.action is None else step.action.tool,
        proved=proved(caller.workload, caller.jkt),
        held=step.obligations,
        document={
            "v": DOCUMENT_V,
            "asking": asking,
            "attested_by": caller.workload.attested_by,
            "home": home,
            "initiator": parties.initiator,
            "performer": parties.performer,
            "redeemer": parties.redeemer,
            "audience": parties.audience,
            "approval": parties.approval,
            "influence": None if parties.influence is None else list(parties.influence),
            "workflow": parties.workflow,
            "now": int(now),
            **_lineage(step),
            **_deed(step),
        },
        ref=step.ref,
    )


def _lineage(step: Step) -> dict[str, object]:
    intent = step.intent
    return {
        "tenant": step.tenant,
        "requester": _requester(step),
        "owner": intent.owner,
        "proof": intent.proof,
        "origin": step.origin,
        "depth": step.depth,
        "deferred": step.deferred,
        "chain": [{"performer": hop.performer, "tool": hop.tool, "origin": hop.origin} for hop in step.chain],
        "ceiling": {"tools": sorted(step.ceiling.tools), "impact": step.ceiling.impact},
        "budgets": {"steps": intent.steps_max, "server_steps": intent.server_steps_max},
    }


def _deed(step: Step) -> dict[str, object]:
    action = step.action
    if action is None:
        return {"action": None, "facts": {}, "plan": []}
    return {
        "action": {
            "server": action.tool.partition("/")[0],
            "tool": action.tool,
            "impact": action.impact,
            "args": action.args,
            "schema": action.schema,
            "is_self": action.is_self,
        },
        "facts": dict(action.facts),
        "plan": [
            {
                "at": line.at,
                "method": line.method,
                "path": line.path,
                "query": list(line.query),
                "times": line.times,
            }
            for line in action.plan
        ],
    }


def _requester(step: Step) -> dict[str, object] | None:
    who = step.intent.requester
    return None if who is None else {"issuer": who.issuer, "subject": who.subject, "id": who.opaque}


def _party(entry: Entry, workload: str, attested_by: str | None) -> Party:
    return {
        "id": workload,
        "trust_domain": trust_domain_of(SpiffeId(workload)),
        "name": entry.name,
        "role": entry.role,
        "tenant": entry.tenant,
        "attested_by": attested_by,
    }


def _client(step: Step) -> Party:
    """What the initiator's own client does (elicitation) is performed there."""
    return {
        "id": step.performer,
        "trust_domain": trust_domain_of(SpiffeId(step.performer)),
        "name": "client",
        "role": "agent",
        "tenant": step.tenant,
        "attested_by": None,
    }

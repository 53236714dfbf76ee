"""Decide as the real verb would, and do nothing: the same placing, marks, bounds and policy.

The subject is not here to prove itself, so where the registry admits it in two manners the answer is yes
only if it is yes for both. What only the store's own atomic call knows (counts of steps, rates, key proofs)
is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwrit.wire import OpenStepRequest
from stepwrit_broker.core import acts, limits, lineage, marks, standing
from stepwrit_broker.core.admission import admit
from stepwrit_broker.core.advice import Asked, check_reach
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.document import Party, step_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.core.verdict import Permit, Question
from stepwrit_broker.core.versions import Versions
from stepwrit_broker.core.workload import SpiffeId, TrustDomain, Workload, parse_spiffe_id
from stepwrit_broker.flows import asking, knowing, opening, targets
from stepwrit_broker.flows.evaluate_opened import accept_step, issue_credential, running
from stepwrit_broker.flows.house import House, rule_of, same_tenant, step_subjects, weigh
from stepwrit_broker.ports import InForce

UNKNOWN = "no such subject, action, step or tool"
_OF_OPENED = {"accept_step": accept_step, "issue_credential": issue_credential}
_ACTIONS = ("open_step", *_OF_OPENED)
NO_STEP = "it depends on the step: name it in context.step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Advice, at `at` (seconds since the epoch), on these versions. problem: why not; None is yes.

    ref: names the answer in the ledger. about: what of the question the registry and the store know.
    approval: the one that the question names, if it is one for exactly this. ends_at: of the step under which
    it would be opened.
    """

    ref: str
    at: float
    versions: Versions
    policies: tuple[str, ...] = ()
    problem: Problem | None = None
    about: dict[str, str] = field(default_factory=dict)
    approval: ApprovalRecord | None = None
    ends_at: float = 0.0

    @property
    def decision(self) -> bool:
        """Whether the operation would be let go forward."""
        return self.problem is None


async def evaluate(house: House, asker: Caller, asked: Asked | Malformed) -> Answer:
    """One answer; a question that is none is answered no. Raises Unavailable: nothing is known then."""
    now, force, ref = house.clock.now(), house.settings.now_in_force(), house.ref()
    known = _Known()
    policies: tuple[str, ...] = ()
    why_not: Problem | None = None
    try:
        if isinstance(asked, Malformed):
            raise asked
        policies = await _decide(house, asker, asked, force, now, known)
    except Unavailable:
        raise
    except Problem as problem:
        problem.ref, why_not = ref, problem
    return Answer(
        ref=ref,
        at=now,
        versions=force.versions,
        policies=policies,
        problem=why_not,
        about=known.about,
        approval=known.approval,
        ends_at=known.ends_at,
    )


@dataclass(slots=True)
class _Known:
    """What is found on the way to an answer, whichever it is."""

    about: dict[str, str] = field(default_factory=dict[str, str])
    approval: ApprovalRecord | None = None
    ends_at: float = 0.0


async def _decide(
    house: House, asker: Caller, asked: Asked, force: InForce, now: float, known: _Known
) -> tuple[str, ...]:
    """The determining policies of a yes. Raises Problem."""
    if (asked.subject_type, asked.resource_type) != ("workload", "tool") or asked.action not in _ACTIONS:
        raise Refused("not_found", UNKNOWN)
    known.about["asking"] = asked.action
    check_reach(asker.entry, asked.resource)
    subjects = list(_manners(house, force, asker, asked.subject))
    known.about["subject"] = subjects[0].workload.id
    parent = await _parent(house, asker, asked, known.about)
    _known_tool(house, force, asker, subjects[0], asked, known)
    if parent is None:
        raise Refused("no_step", NO_STEP)
    known.ends_at = await running(house, asker, force, parent, now)
    return await _by_all(house, force, subjects, parent, asked, now, known)


def _known_tool(
    house: House, force: InForce, asker: Caller, subject: Caller, asked: Asked, known: _Known
) -> None:
    """The tool is registered; and without a step, it is not ruled out already. Raises Refused."""
    server, _, name = asked.resource.partition("/")
    if asked.resource in acts.TOOLS:
        return
    entry, tool = targets.registered(force, asker, server, name)
    known.about["tool"] = tool.name
    if asked.step is None and asked.action == "open_step":
        _check_without_step(house, subject, entry, tool)


async def _by_all(
    house: House,
    force: InForce,
    subjects: list[Caller],
    parent: StepRecord,
    asked: Asked,
    now: float,
    known: _Known,
) -> tuple[str, ...]:
    """Yes for each manner in which the subject could come. Raises Refused; no goes before "not yet"."""
    determining: dict[str, None] = {}
    pending: Refused | None = None
    for subject in subjects:
        try:
            if asked.action == "open_step":
                said = await _settled(house, force, subject, parent, asked, now, known)
            else:
                said = await _OF_OPENED[asked.action](house, force, subject, parent, asked, now)
        except Refused as refused:
            if refused.code != "approval_required":
                raise
            pending = refused
        else:
            determining.update(dict.fromkeys(said))
    if pending is not None:
        raise pending
    return tuple(determining)


def _manners(house: House, force: InForce, asker: Caller, subject: str) -> Iterator[Caller]:
    """The subject as it could come, once for each manner in which the registry admits it.

    Made for a question only: nobody has proved to be it. Raises Refused(`not_found`) for one that is unknown
    or of another tenant.
    """
    try:
        who = parse_spiffe_id(subject)
        entry = force.registry.entry_for(who)
        if entry is None or entry.tenant != asker.entry.tenant:
            raise Refused("not_found", UNKNOWN)
        for manner in sorted(entry.attest):
            workload = Workload(id=who, attested_by=manner, expires_at=math.inf, serial="")
            entry = admit(force.registry, TrustDomain(house.trust_domain), workload)
            yield Caller(workload=workload, entry=entry, jkt="")  # it will prove a key, whichever
    except (ValueError, Unproven) as bad:
        raise Refused("not_found", UNKNOWN) from bad


async def _parent(house: House, asker: Caller, asked: Asked, about: dict[str, str]) -> StepRecord | None:
    if asked.step is None:
        return None
    record = await house.store.step(asked.step) if is_id("stp", asked.step) else None
    parent = same_tenant(record, asker)
    about["step"], about["txn"] = parent.step.id, parent.step.txn
    return parent


def _check_without_step(house: House, subject: Caller, server: Entry, tool: Tool) -> None:
    """Whether the registry or a mark says already that it can never be. Raises Refused."""
    lineage.check_may_start(tool.name, tool.impact, subject.entry.may_start or acts.NOTHING)
    names = (f"tool:{tool.name}", f"server:{server.name}", f"tenant:{server.tenant}")
    performer = marks.subjects_of_workload(SpiffeId(server.id))
    marks.test(house.store.marks(), (*marks.subjects_of_caller(subject), *performer, *names))


async def _settled(
    house: House,
    force: InForce,
    subject: Caller,
    parent: StepRecord,
    asked: Asked,
    now: float,
    known: _Known,
) -> tuple[str, ...]:
    server, _, tool = asked.resource.partition("/")
    request = OpenStepRequest(
        parent=parent.step.id, server=server, tool=tool, args=dict(asked.args or {}), deferred=asked.deferred
    )
    standing.check_parent(parent)
    placed = opening.place(house, subject, request, parent, force, now)
    marks.test(house.store.marks(), step_subjects(placed.step, subject))
    _check_bounds(force, parent, placed.step)
    seen = await knowing.before(house, subject, placed.step, None, force)
    known.approval = await _presented(house, asked, placed.step)
    given = known.approval if await _holds(house, known.approval, subject, now) else None
    if given is not None:  # it is opened already, and is not to count against itself
        seen = await knowing.within(house, given.asked.step, force)

    def question(approval: Party | None) -> Question:
        return step_question(
            caller=subject,
            step=placed.step,
            performer=placed.performer,
            home=house.trust_domain,
            now=now,
            influence=seen.influence,
            workflow=seen.workflow,
            approval=approval,
        )

    if given is not None:
        return (await asking.decide_again(house, force, given.asked.step, question))[1].policies
    verdict = await weigh(force, question(None))
    if isinstance(verdict, Permit):
        return verdict.policies
    raise Refused(
        "approval_required",
        "a person must sign this first",
        rule=rule_of(force.versions.policy, verdict.policies),
        who_can_change_it=f"the operator ({verdict.setting})",
    )


async def _presented(house: House, asked: Asked, child: Step) -> ApprovalRecord | None:
    """The approval that the question names, if it was asked for exactly this; any other looks like none."""
    named = asked.approval
    record = await house.approvals.approval(named) if named is not None and is_id("apr", named) else None
    if record is None or child.action is None:
        return None
    step, action = record.asked.step, record.asked.action
    same = (step.parent, step.initiator, step.deferred, action.tool, action.args) == (
        child.parent, child.initiator, child.deferred, child.action.tool, child.action.args,
    )  # fmt: skip
    return record if same else None


async def _holds(house: House, record: ApprovalRecord | None, subject: Caller, now: float) -> bool:
    """It was given, and the step that it was given for has neither begun nor ended. Raises Refused."""
    if record is None:
        return False
    opened = await house.store.step(record.asked.step.id)
    if record.state != "given" or opened is None:
        return False
    marks.test(house.store.marks(), step_subjects(opened.step, subject))
    return opened.life.state == "opened" and now < opened.step.expires_at


def _check_bounds(force: InForce, parent: StepRecord, child: Step) -> None:
    """As far as they are known here: how many steps there have been is the store's own count."""
    is_server = child.origin == "server"
    limits.within_transaction(
        force.limits,
        steps=0,
        server_steps=0,
        depth=child.depth,
        children=parent.life.children,
        is_server=is_server,
    )
    standing.within_step(parent)
    standing.within_intent(child.intent, steps=0, server_steps=0, depth=child.depth, is_server=is_server)

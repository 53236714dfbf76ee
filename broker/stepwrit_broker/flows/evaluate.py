"""Decide as a real open would, and open nothing: the same placing, marks, bounds and policy.

The subject is not here to prove itself, so where the registry admits it in two manners the answer is yes
only if it is yes for both. What only the store's own atomic call knows (counts of steps, rates, key proofs)
is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwrit.wire import OpenStepRequest
from stepwrit_broker.core import limits, lineage, marks, standing
from stepwrit_broker.core.admission import admit
from stepwrit_broker.core.advice import Asked, check_reach
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.document import step_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.influence import told
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.step import Step, StepRecord, deadline
from stepwrit_broker.core.versions import Versions
from stepwrit_broker.core.workload import SpiffeId, TrustDomain, Workload, parse_spiffe_id
from stepwrit_broker.flows import opening
from stepwrit_broker.flows.house import House, same_tenant, settle, step_subjects
from stepwrit_broker.ports import InForce

UNKNOWN = "no such subject, action, step or tool"
NO_STEP = "it depends on the step under which it would be opened: name it in context.step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Advice, at `at` (seconds since the epoch), on these versions. problem: why not; None is yes.

    ref: names the answer in the ledger. about: what of the question the registry and the store know.
    """

    ref: str
    at: float
    versions: Versions
    policies: tuple[str, ...] = ()
    problem: Problem | None = None
    about: dict[str, str] = field(default_factory=dict)

    @property
    def decision(self) -> bool:
        """Whether the operation would be let go forward."""
        return self.problem is None


async def evaluate(house: House, asker: Caller, asked: Asked | Malformed) -> Answer:
    """One answer; a question that is none is answered no. Raises Unavailable: nothing is known then."""
    now, force, ref = house.clock.now(), house.settings.now_in_force(), house.ref()
    about: dict[str, str] = {}
    try:
        if isinstance(asked, Malformed):
            raise asked
        policies = await _decide(house, asker, asked, force, now, about)
    except Unavailable:
        raise
    except Problem as problem:
        problem.ref = ref
        return Answer(ref=ref, at=now, versions=force.versions, problem=problem, about=about)
    return Answer(ref=ref, at=now, versions=force.versions, policies=policies, about=about)


async def _decide(
    house: House, asker: Caller, asked: Asked, force: InForce, now: float, about: dict[str, str]
) -> tuple[str, ...]:
    """The determining policies of a yes. Raises Problem."""
    if (asked.subject_type, asked.action, asked.resource_type) != ("workload", "open_step", "tool"):
        raise Refused("not_found", UNKNOWN)
    check_reach(asker.entry, asked.resource)
    subjects = list(_manners(house, force, asker, asked.subject))
    about["subject"] = subjects[0].workload.id
    parent = await _parent(house, asker, asked, about)
    server, _, name = asked.resource.partition("/")
    if server != opening.CLIENT:
        entry, tool = opening.registered(force, asker, server, name)
        about["tool"] = tool.name
        if parent is None:
            raise _without_step(house, subjects[0], entry, tool)
    if parent is None:
        raise Refused("no_step", NO_STEP)
    await _check_parent(house, asker, force, parent, now)
    determining: dict[str, None] = {}
    for subject in subjects:
        determining.update(dict.fromkeys(await _settled(house, force, subject, parent, asked, now)))
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
            yield Caller(
                workload=workload, entry=admit(force.registry, TrustDomain(house.trust_domain), workload)
            )
    except (ValueError, Unproven) as bad:
        raise Refused("not_found", UNKNOWN) from bad


async def _parent(house: House, asker: Caller, asked: Asked, about: dict[str, str]) -> StepRecord | None:
    if asked.step is None:
        return None
    record = await house.store.step(asked.step) if is_id("stp", asked.step) else None
    parent = same_tenant(record, asker)
    about["parent"], about["txn"] = parent.step.id, parent.step.txn
    return parent


def _without_step(house: House, subject: Caller, server: Entry, tool: Tool) -> Refused:
    """Never, where the registry or a mark says so already; else it depends on the step. Raises Refused."""
    lineage.check_may_start(tool.name, tool.impact, subject.entry.may_start or opening.NOTHING)
    names = (f"tool:{tool.name}", f"server:{server.name}", f"tenant:{server.tenant}")
    performer = marks.subjects_of_workload(SpiffeId(server.id))
    marks.test(house.store.marks(), (*marks.subjects_of_caller(subject), *performer, *names))
    return Refused("no_step", NO_STEP)


async def _check_parent(house: House, asker: Caller, force: InForce, parent: StepRecord, now: float) -> None:
    """The step may have children now: it runs, and so does its transaction."""
    above, lives = parent.step.ancestors, force.limits.lives
    root = same_tenant(await house.store.step(above[0]), asker) if above else parent
    ends_at = deadline(parent, accepted_s=lives.accepted_s, waiting_s=lives.waiting_s, lost_s=lives.lost_s)
    standing.check_parent(parent)
    standing.check_clocks(ends_at=ends_at, txn_ends_at=root.step.expires_at, now=now)


async def _settled(
    house: House, force: InForce, subject: Caller, parent: StepRecord, asked: Asked, now: float
) -> tuple[str, ...]:
    server, _, tool = asked.resource.partition("/")
    request = OpenStepRequest(
        parent=parent.step.id, server=server, tool=tool, args=dict(asked.args), deferred=asked.deferred
    )
    placed = opening.place(house, subject, request, parent, force, now)
    marks.test(house.store.marks(), step_subjects(placed.step, subject))
    _check_bounds(force, parent, placed.step)
    past = await house.store.past(parent.step.txn)
    question = step_question(
        caller=subject,
        step=placed.step,
        performer=placed.performer,
        home=house.trust_domain,
        now=now,
        influence=told(past, past.heard(subject.workload.id), force.registry),
    )
    return (await settle(force, question)).policies


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
    standing.within_intent(child.intent, steps=0, server_steps=0, depth=child.depth, is_server=is_server)

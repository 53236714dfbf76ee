"""What is asked of a step that is open: would it be accepted, would its performer get a credential."""

from __future__ import annotations

from stepwrit.digest import DigestError, args_digest, body_digest
from stepwrit.wire import RequestDetails
from stepwrit_broker.core import marks, standing, step
from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.answer import answer_from
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.clocks import ends_at
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.flows import issue
from stepwrit_broker.flows.asking import check_not_pending, decide_again
from stepwrit_broker.flows.house import House, check_performer, same_tenant, step_subjects
from stepwrit_broker.flows.performing import decided_at_accept
from stepwrit_broker.ports import InForce


async def running(house: House, asker: Caller, force: InForce, record: StepRecord, now: float) -> float:
    """Until when the step and its transaction run, as things stand. Raises Refused(`expired`)."""
    above, lives = record.step.ancestors, force.limits.lives
    root = same_tenant(await house.store.step(above[0]), asker) if above else record
    ends = ends_at(lives, record)
    standing.check_clocks(ends_at=ends, txn_ends_at=root.step.expires_at, now=now)
    return min(ends, root.step.expires_at)


async def accept_step(
    house: House, force: InForce, subject: Caller, record: StepRecord, asked: Asked, now: float
) -> tuple[str, ...]:
    """Would its performer be let begin with it, and is it for these arguments? Raises Refused, Conflict."""
    _check(house, subject, record, asked)
    state = record.life.state
    if state == "accepted":
        raise Refused("replay", f"round {record.life.round} of this step was accepted before", rule="round")
    step.move(state, "resume" if state == "waiting" else "accept")
    decided = await decided_at_accept(house, force, subject, record, now)
    return () if decided is None else answer_from(decided).policies


async def issue_credential(
    house: House, force: InForce, subject: Caller, record: StepRecord, asked: Asked, now: float
) -> tuple[str, ...]:
    """Would its performer get a credential for this request? Raises Malformed, Refused, Conflict."""
    _check(house, subject, record, asked)
    known, action = await issue.step_of(house, subject, record.step.id, now)
    standing.check_parent(known)  # what may open children may have credentials
    audience, method, url = asked.audience, asked.method, asked.url
    if audience is None or method is None or url is None:
        raise Malformed("invalid_request", "action.properties: resource, method and url are needed")
    details = RequestDetails(type="stepwrit_action", method=method, url=url, body=body_digest(b""))
    issue.place(house, subject, known, action, audience, details, force, now)
    marks.test(house.store.marks(), (f"resource:{audience}",))
    question_with = await issue.questions(house, force, subject, known.step, audience, now)
    return (await decide_again(house, force, known.step, question_with))[1].policies


def _check(house: House, subject: Caller, record: StepRecord, asked: Asked) -> None:
    """It is a step of this tool and of these arguments, the subject performs it, and nothing stops it."""
    action = record.step.action
    if action is None or action.tool != asked.resource:
        raise Refused("not_found", "no such step")
    check_performer(record, subject)
    marks.test(house.store.marks(), step_subjects(record.step, subject))
    check_not_pending(record)
    if asked.args is not None and _digest(asked) != action.args:
        raise Refused("arguments_changed", "these arguments are not those the step was opened with")


def _digest(asked: Asked) -> str:
    try:
        return args_digest(dict(asked.args or {}))
    except DigestError as bad:
        raise Malformed("invalid_arguments", str(bad)) from bad

"""A denial for want of an approval, made into a request for one (AuthZEN's Access Request profile, ARAP).

To ask for an approval is to open the step that it is for, and only the step's initiator can do that, under
its own key. So a requestable denial can be handed on, and only the subject itself makes it a request. The
denial is bound by value, with the broker's own secret: whoever issues it verifies it, and nothing is kept.

Source: https://openid.github.io/authzen/authzen-access-request-approval-profile-1_0.html (draft 1).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final, Literal

from stepwrit.digest import DigestError, args_digest, b64u, unb64u
from stepwrit.wire import LEEWAY_S, OpenStepRequest
from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.approval import State as ApprovalState
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import covers
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.flows.evaluate import Answer
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.opening import open_step

HINT_S: Final = 300.0
INVALID_BINDING: Final = "access request invalid_denial_binding"
EXPIRED_DENIAL: Final = "access request expired_denial"
NOT_REQUESTABLE: Final = "access request not_requestable"
UNKNOWN_TASK: Final = "access request unknown_task"
Status = Literal["pending", "approved", "denied", "expired", "cancelled"]
_STATUS: Final[dict[ApprovalState, Status]] = {
    "asked": "pending",
    "given": "approved",
    "used": "approved",
    "denied": "denied",
    "cancelled": "cancelled",
    "expired": "expired",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """That a denied step may be asked for, until `expires_at` (whole seconds since the epoch)."""

    expires_at: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What a request says of the denial that it follows from; nothing of it is believed without `token`."""

    evaluation_id: str | None
    expires_at: int | None
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request on its way. until: of the request while it is pending, then of the approval (seconds).

    approved_at: of the last signature; None where policy asks for none any more.
    """

    id: str
    step: str
    status: Status
    url: str | None
    until: float
    approved_at: float | None = None


def hint_of(house: House, asked: Asked, answer: Answer) -> Hint:
    """The requestable part of a denial: bound to this very question, and short-lived."""
    until = int(min(answer.at + HINT_S, answer.ends_at))
    claims = json.dumps([answer.ref, until, binding_hash(asked)], separators=(",", ":")).encode()
    return Hint(expires_at=until, token=f"{b64u(claims)}.{b64u(_mac(house, claims))}")


def binding_hash(asked: Asked) -> str:
    """ARAP section 4.4: subject (without `act`), resource, action and what of the context decides."""
    said = {name: dict(value) for name, value in asked.said.items()}
    properties = said["subject"].get("properties")
    if isinstance(properties, dict) and "act" in properties:
        said["subject"]["properties"] = {name: value for name, value in properties.items() if name != "act"}
    return args_digest({**said, "context": {} if asked.step is None else {"step": asked.step}})


async def submit(
    house: House, caller: Caller, asked: Asked, denial: Denial | None, op_id: str, digest: str
) -> Task:
    """Open the step, so that persons are asked; or, where policy asks for nobody any more, just open it.

    Raises Malformed, Refused (a rule `access request …`, `wrong_workload`, and as `open_step`), Conflict,
    Unavailable.
    """
    try:
        _check(house, caller, asked, denial, house.clock.now())
    except Problem as problem:
        await house.refusals.note(problem, caller, "access_request", {})
        raise
    server, _, tool = asked.resource.partition("/")
    request = OpenStepRequest(
        parent=asked.step or "",
        server=server,
        tool=tool,
        args=dict(asked.args or {}),
        deferred=asked.deferred,
    )
    try:
        ready = await open_step(house, caller, request, op_id, digest)
        return await _task_of_step(house, caller, ready.record.step.id)
    except Refused as news:
        record = None if news.approval is None else await house.approvals.approval(news.approval.id)
        if record is None:
            raise
        return _task(house, record)


async def task(house: House, caller: Caller, name: str) -> Task:
    """Where a request stands, for its initiator and for those who may ask about its tool.

    Raises Refused(`not_found`) to everybody else, `slow_down` to whoever asks too often while it waits.
    """
    if is_id("stp", name):
        return await _task_of_step(house, caller, name)
    record = await house.approvals.approval(name) if is_id("apr", name) else None
    found = _task(house, _mine(record, caller))
    if found.status == "pending":
        house.pace.check(f"task {name} {caller.workload.id}", house.clock.now(), house.ref())
    return found


async def _task_of_step(house: House, caller: Caller, name: str) -> Task:
    """Of a step of the caller's own: its approval's, or approved where policy asked for nobody."""
    opened = await house.store.step(name)
    if opened is None or opened.step.initiator != caller.workload.id or opened.step.action is None:
        raise _unknown()
    if opened.step.approve_by is not None:
        return _task(house, _mine(await house.approvals.approval_of(name), caller))
    status: Status = "expired" if opened.life.state == "expired" else "approved"
    return Task(id=name, step=name, status=status, url=None, until=opened.step.expires_at)


def _mine(record: ApprovalRecord | None, caller: Caller) -> ApprovalRecord:
    if record is not None and record.asked.step.tenant == caller.entry.tenant:
        initiator, tool = record.asked.step.initiator, record.asked.action.tool
        if initiator == caller.workload.id or any(covers(each, tool) for each in caller.entry.may_ask):
            return record
    raise _unknown()


def _unknown() -> Refused:
    return Refused("not_found", "no such access request", rule=UNKNOWN_TASK)


def _task(house: House, record: ApprovalRecord) -> Task:
    asked, status = record.asked, _STATUS[record.state]
    if status == "pending" and house.clock.now() >= asked.expires_at:
        status = "expired"
    return Task(
        id=asked.id,
        step=asked.step.id,
        status=status,
        url=house.approval_url(asked.id) if status == "pending" else None,
        until=asked.step.expires_at if status == "approved" else float(asked.expires_at),
        approved_at=max((each.at for each in record.signed), default=None) if status == "approved" else None,
    )


def _check(house: House, caller: Caller, asked: Asked, denial: Denial | None, now: float) -> None:
    """The denial is ours, of this very question, and fresh; and the subject speaks for itself."""
    if denial is None:
        raise Malformed("invalid_request", "denial is missing: ask first", rule=NOT_REQUESTABLE)
    if denial.token is None:
        raise Malformed("invalid_request", "denial.binding_token is missing", rule=INVALID_BINDING)
    ref, until, bound = _read(house, denial.token)
    said = (denial.evaluation_id or ref, until if denial.expires_at is None else denial.expires_at)
    if said != (ref, until) or bound != binding_hash(asked):
        raise Malformed("invalid_request", "the denial is of another question", rule=INVALID_BINDING)
    if now >= until + LEEWAY_S:
        raise Refused("expired", "the denial is too old: ask again", rule=EXPIRED_DENIAL)
    if asked.subject != caller.workload.id:
        raise Refused(
            "wrong_workload", "only the subject itself asks for its approvals: hand the denial on to it"
        )


def _read(house: House, token: str) -> tuple[str, int, str]:
    claims, _, mac = token.partition(".")
    try:
        raw, shown = unb64u(claims), unb64u(mac)
    except DigestError as bad:
        raise Malformed("invalid_request", "the denial is not of this broker", rule=INVALID_BINDING) from bad
    if not hmac.compare_digest(_mac(house, raw), shown):
        raise Malformed("invalid_request", "the denial is not of this broker", rule=INVALID_BINDING)
    ref, until, bound = json.loads(raw)
    return ref, until, bound


def _mac(house: House, claims: bytes) -> bytes:
    return hmac.new(house.pepper, b"stepwrit access request\x00" + claims, hashlib.sha256).digest()

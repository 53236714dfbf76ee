"""A step: one initiated action, and its states in one table.

Rule 1: everything that moves a step's state is in TRANSITIONS. Rule 2: an event that the table does not
have raises and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from stepwrit.wire import HopSpec, Impact, Origin, PlanItem, Proof
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.obligations import Obligation
from stepwrit_broker.core.workload import SpiffeId

State = Literal[
    "opened", "approval_pending", "accepted", "waiting", "done", "failed", "cancelled", "expired", "revoked"
]
Event = Literal["approve", "accept", "wait", "resume", "done", "failed", "cancelled", "expire", "revoke"]

TRANSITIONS: dict[State, dict[Event, State]] = {
    "opened": {"accept": "accepted", "cancelled": "cancelled", "expire": "expired", "revoke": "revoked"},
    "approval_pending": {
        "approve": "opened",
        "cancelled": "cancelled",
        "expire": "expired",
        "revoke": "revoked",
    },
    "accepted": {
        "wait": "waiting",
        "done": "done",
        "failed": "failed",
        "cancelled": "cancelled",
        "expire": "expired",
        "revoke": "revoked",
    },
    "waiting": {"resume": "accepted", "cancelled": "cancelled", "expire": "expired", "revoke": "revoked"},
    "done": {},
    "failed": {},
    "cancelled": {},
    "expired": {},
    "revoked": {},
}
FINAL: frozenset[State] = frozenset(state for state, moves in TRANSITIONS.items() if not moves)

_CODE: dict[State, str] = {
    "done": "already_done",
    "failed": "already_done",
    "cancelled": "closed",
    "expired": "expired",
    "revoked": "revoked",
}


def move(state: State, event: Event) -> State:
    """The next state. Raises Refused for an ended step, Conflict for an event that does not fit now."""
    after = TRANSITIONS[state].get(event)
    if after is not None:
        return after
    if state in FINAL:
        raise Refused(_CODE[state], f"the step has ended ({state})")
    raise Conflict("wrong_state", f"the step is {state}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """Who wants it: a person by (issuer, subject), or a trigger's owner of record.

    `opaque` is the broker's own id for the pair and is what tokens carry.
    """

    opaque: str
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One tool of a server with these arguments. `facts` is what the registry names of the arguments."""

    server: str
    tool: str  # `server/tool`
    args: str
    impact: Impact
    schema: str | None
    facts: tuple[tuple[str, str | int | bool], ...] = ()
    plan: tuple[PlanItem, ...] = ()
    is_self: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The grant of another trust domain's broker that a root was started with, and the one action it is for.

    digest: by which both ledgers know the grant. tool: `server/tool` by our names; args: digest. step, txn,
    ref, origin: what the issuer says of its own step.
    """

    issuer: str
    digest: str
    tool: str
    args: str
    impact: Impact
    step: str
    txn: str
    ref: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A transaction's root: who wants what, until when. It has no action and never yields a credential.

    cause, cause_txn: the step of another transaction that made a trigger's event. outside: what else stops
    it, as targets of marks: what stops its cause, or its peer. without_step: the one tool of the server that
    started it by itself, for a call that came without a step. upstream: for one that a peer's grant started.
    """

    txn: str
    requester: Requester | None
    owner: str | None
    proof: Proof | None
    purpose: str
    cause: str | None
    steps_max: int
    server_steps_max: int
    depth_max: int
    cause_txn: str | None = None
    outside: tuple[str, ...] = ()
    without_step: str | None = None
    upstream: Upstream | None = None


class Label(NamedTuple):
    """Which step of which registered workflow a step was, when it was opened."""

    workflow: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What never changes about a step. A root's `action` is None and its `parent` too.

    performer: a SPIFFE ID, or the registry's pattern until someone accepts. ancestors: ids, root first.
    chain: one hop per ancestor with an action and this step, oldest first. expires_at: seconds.
    keys_above: the thumbprints of the keys that opened the ancestors. influence: as `core.influence.spelled`
    writes it; None for a root. approve_by: until when persons must have signed; None where nobody needs to.
    obligations: those that it was opened with, and those handed down to it.
    """

    id: str
    txn: str
    intent: Intent
    parent: str | None
    ancestors: tuple[str, ...]
    chain: tuple[HopSpec, ...]
    initiator: SpiffeId
    initiator_jkt: str
    performer: str
    origin: Origin
    action: Action | None
    ceiling: Ceiling
    tenant: str
    deferred: bool
    opened_at: float
    expires_at: float
    ref: str
    influence: str | None = None
    keys_above: tuple[str, ...] = ()
    approve_by: float | None = None
    obligations: tuple[Obligation, ...] = ()
    label: Label | None = None

    @property
    def depth(self) -> int:
        """Zero for a root."""
        return len(self.ancestors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What moves about a step. Times are seconds since the epoch; `round` counts from 1, 0 before accept.

    awaits: while it waits, the digest of the requestState that its next round must bring; "" for none.
    """

    state: State
    round: int
    performer: SpiffeId | None
    accepted_at: float
    beat_at: float
    waiting_at: float
    children: int
    ended_at: float
    awaits: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step as the store holds it."""

    step: Step
    life: Life


def deadline(
    record: StepRecord, *, accepted_s: float, waiting_s: float, lost_s: float, run_s: float
) -> float:
    """When the clock that runs now runs out (seconds): to be accepted, to be answered, to be done.

    A deferred step waits for its next run until its own end, and each of its runs has run_s.
    """
    life = record.life
    if life.state == "approval_pending" and record.step.approve_by is not None:
        return record.step.approve_by
    if record.step.action is None or life.state in ("opened", "approval_pending"):
        return record.step.expires_at
    if life.state == "waiting":
        return record.step.expires_at if record.step.deferred else life.waiting_at + waiting_s
    ends = runs_until(record, accepted_s=accepted_s, run_s=run_s)
    return ends if stands_in(record) else min(ends, life.beat_at + lost_s)


def stands_in(record: StepRecord) -> bool:
    """Whether its initiator took it to another trust domain's broker: it beats to hear, and need not."""
    pattern, who = record.step.performer, record.life.performer
    is_performer = who == pattern or (
        who is not None and pattern.endswith("/*") and who.startswith(pattern[:-1])
    )
    return who == record.step.initiator and not is_performer


def runs_until(record: StepRecord, *, accepted_s: float, run_s: float) -> float:
    """When an accepted step is over, however alive its performer is (seconds)."""
    if record.step.deferred:
        return min(record.life.accepted_at + run_s, record.step.expires_at)
    return record.life.accepted_at + accepted_s


def is_over(
    record: StepRecord, now: float, *, accepted_s: float, waiting_s: float, lost_s: float, run_s: float
) -> bool:
    """Whether a live step's clock has run out; the reaper and every verb ask this one question."""
    if record.life.state in FINAL:
        return False
    return now >= deadline(record, accepted_s=accepted_s, waiting_s=waiting_s, lost_s=lost_s, run_s=run_s)

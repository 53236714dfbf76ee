"""A grant: the broker's record of one credential, and its states in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.workload import SpiffeId

State = Literal["reserved", "issued", "redeemed", "expired", "closed", "revoked"]
Event = Literal["issue", "redeem", "expire", "close", "revoke"]

TRANSITIONS: dict[State, dict[Event, State]] = {
    "reserved": {"issue": "issued", "expire": "expired", "close": "closed", "revoke": "revoked"},
    "issued": {"redeem": "redeemed", "expire": "expired", "close": "closed", "revoke": "revoked"},
    "redeemed": {"close": "redeemed", "revoke": "revoked"},
    "expired": {},
    "closed": {},
    "revoked": {},
}
LIVE: frozenset[State] = frozenset({"reserved", "issued"})
_CODE: dict[State, str] = {
    "redeemed": "replay",
    "expired": "expired",
    "closed": "closed",
    "revoked": "revoked",
}


def move(state: State, event: Event) -> State:
    """The next state. Raises Refused for a grant that is spent or over, Conflict for an event out of turn."""
    after = TRANSITIONS[state].get(event)
    if after is not None:
        return after
    if state in _CODE:
        raise Refused(_CODE[state], f"the credential is {state}")
    raise Conflict("wrong_state", f"the grant is {state}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What never changes about a grant.

    request: digest of the one request it opens. plan_line: its line of the tool's plan. claims: the stored
    plan of the credential, from which the same claims are minted again; never the credential itself.
    """

    id: str
    step: str
    txn: str
    kind: str
    tenant: str
    audience: str
    performer: SpiffeId
    jkt: str
    request: str
    method: str
    url: str
    plan_line: int
    is_self: bool
    issued_at: float
    expires_at: float
    epoch: str
    ref: str
    claims: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRecord:
    """A grant as the store holds it. `redeemed_by` is empty until then."""

    grant: Grant
    state: State
    redeemed_by: str
    redeemed_at: float

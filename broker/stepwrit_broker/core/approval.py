"""An approval: a signature over what will run. What is asked, what is signed, and when it counts. Pure.

An approval is asked for when policy says "not without a person". It names one step with everything that was
decided on, a text made here, and who may sign. It is given by signatures over its digest, used once, and
decided on again at use: the signatures must satisfy what is demanded then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from stepwrit.digest import args_digest
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.step import Action, Step
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.workload import SpiffeId

V = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One approval as it is asked for. Times: whole seconds since the epoch. nonce: base64url, 32 bytes.

    performer: whom the registry names for it. kind: of credential. policies: those that demand it. versions:
    what they were decided under. terms: of each policy that demands it, in the order of `together`; all must
    be satisfied, and there is always one. text: the digest of the lines that a person is shown.
    """

    id: str
    nonce: str = field(repr=False)
    step: Step
    action: Action
    performer: SpiffeId | str
    kind: str
    policies: tuple[str, ...]
    versions: Mapping[str, int]
    terms: tuple[Terms, ...]
    asked_at: int
    expires_at: int
    text: str

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an approval that nobody need sign")

    @property
    def signed(self) -> dict[str, object]:
        """The document that is signed: all that an approver answers for, and nothing that may change."""
        step, action, who = self.step, self.action, self.step.intent.requester
        return {
            "v": V,
            "id": self.id,
            "nonce": self.nonce,
            "tenant": step.tenant,
            "txn": step.txn,
            "step": step.id,
            "requester": None if who is None else who.opaque,
            "owner": step.intent.owner,
            "purpose": step.intent.purpose,
            "origin": step.origin,
            "initiator": step.initiator,
            "performer": self.performer,
            "chain": _digest([[h.step, h.initiator, h.performer, h.origin, h.tool] for h in step.chain]),
            "influence": None if step.influence is None else _digest(step.influence),
            "tool": action.tool,
            "impact": action.impact,
            "args": action.args,
            "schema": action.schema,
            "facts": _digest([list(fact) for fact in action.facts]),
            "plan": _digest([[p.at, p.method, p.path, list(p.query), p.times] for p in action.plan]),
            "kind": self.kind,
            "policies": list(self.policies),
            "versions": dict(self.versions),
            "terms": [each.as_json for each in self.terms],
            "asked_at": self.asked_at,
            "expires_at": self.expires_at,
            "deferred": step.deferred,
            "until": int(step.expires_at),
            "text": self.text,
        }

    @property
    def digest(self) -> str:
        """Base64url SHA-256 of the RFC 8785 form of `signed`."""
        return args_digest(self.signed)

    def challenge(self, nonce: bytes) -> bytes:
        """What an authenticator signs: SHA-256 of a nonce made for this one attempt, and the digest.

        The digest alone could be guessed, and an assertion over it collected beforehand.
        """
        return hashlib.sha256(nonce + self.digest.encode()).digest()


Method = Literal["webauthn", "oidc", "key"]
State = Literal["asked", "given", "used", "denied", "cancelled", "expired"]
Event = Literal["give", "use", "deny", "cancel", "expire"]

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    "asked": {"give": "given", "deny": "denied", "cancel": "cancelled", "expire": "expired"},
    "given": {"use": "used", "cancel": "cancelled", "expire": "expired"},
    "used": {},
    "denied": {},
    "cancelled": {},
    "expired": {},
}
_ENDED: Final[dict[State, str]] = {
    "denied": "access_denied",
    "cancelled": "access_denied",
    "expired": "expired_token",
}


def move(state: State, event: Event) -> State:
    """The next state. Raises Refused(`access_denied`, `expired_token`), Conflict(`wrong_state`)."""
    after = TRANSITIONS[state].get(event)
    if after is not None:
        return after
    if state in _ENDED:
        raise Refused(_ENDED[state], f"the approval was {state}")
    raise Conflict("wrong_state", f"the approval is {state}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An approval to be asked for as its step is opened. sealed: the text's lines (JSON), unreadable."""

    asked: Asked
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """One valid signature. digest: of what was signed. at: seconds since the epoch.

    withdrawn: its authenticator was retired since; it counts for nothing that has not run yet.
    """

    by: Identity
    digest: str
    at: float
    method: Method = "webauthn"
    authenticator: str | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """An approval as the store holds it. by, reason: who ended it and why. ended_at: 0 while it lives."""

    asked: Asked
    state: State
    signed: tuple[Signed, ...] = ()
    by: str = ""
    reason: str = ""
    ended_at: float = 0.0


def may_sign(asked: Asked, who: Identity, persons: Persons, terms: tuple[Terms, ...] | None = None) -> bool:
    """Whether this person's signature can count for any of the terms: those of now, if not as asked."""
    return any(_may_sign(asked, who, persons, each) for each in _of(asked, terms))


def missing(
    asked: Asked, signed: Sequence[Signed], persons: Persons, terms: tuple[Terms, ...] | None = None
) -> int:
    """How many persons more must sign, at least; 0 when it is given. What does not count is left out.

    terms: those that policy demands now, where it is decided on again; one signature may satisfy several.
    """
    valid = {each.by for each in signed if each.digest == asked.digest and not each.withdrawn}
    return max(_missing(asked, valid, persons, each) for each in _of(asked, terms))


def out_of_reach(asked: Asked, persons: Persons) -> int:
    """How many signatures would still be missing if everyone signed who is known; 0 where it can be given."""
    everyone = {each for identities in persons.links.values() for each in identities}
    wants = asked.step.intent.requester
    if wants is not None:
        everyone.add(Identity(wants.issuer, wants.subject))
    return max(_missing(asked, everyone, persons, each) for each in asked.terms)


def _of(asked: Asked, terms: tuple[Terms, ...] | None) -> tuple[Terms, ...]:
    if terms == ():
        raise ValueError("an approval that nobody need sign")
    return asked.terms if terms is None else terms


def _may_sign(asked: Asked, who: Identity, persons: Persons, terms: Terms) -> bool:
    if _is_requester(asked, who, persons):
        return terms.requester
    name = persons.name(who)
    return name in terms.persons and persons.serves(name, asked.step.tenant)


def _missing(asked: Asked, valid: Collection[Identity], persons: Persons, terms: Terms) -> int:
    """Where the requester's own signature is not enough, somebody else must be among those who signed."""
    counting = {each for each in valid if _may_sign(asked, each, persons, terms)}
    others = {each for each in counting if not _is_requester(asked, each, persons)}
    return max(terms.count - persons.at_least(counting), 0 if terms.alone or others else 1)


def _is_requester(asked: Asked, who: Identity, persons: Persons) -> bool:
    """The person who wants it; in a trigger's transaction its owner of record, if the list names them."""
    wants, owner = asked.step.intent.requester, asked.step.intent.owner
    if wants is not None:
        return persons.is_same(Identity(wants.issuer, wants.subject), who)
    return owner is not None and persons.name(who) == owner and persons.serves(owner, asked.step.tenant)


def _digest(value: object) -> str:
    return args_digest({"v": value})

"""What a person signs approvals with, and its states. Pure.

A key counts only when it was proposed and then approved by an operator, who compares its fingerprint with
what the person reads to them: whoever sent it in is not believed to be that person.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from stepwrit.digest import body_digest
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.persons import Identity

Kind = Literal["passkey", "key"]
State = Literal["proposed", "active", "retired"]
Verb = Literal["approve", "retire"]

TRANSITIONS: Final[dict[State, dict[Verb, State]]] = {
    "proposed": {"approve": "active", "retire": "retired"},
    "active": {"retire": "retired"},
    "retired": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    """One passkey or key of one person.

    id: `aut_…`. public_key: its JWK (RFC 7517), JSON. credential: a passkey's credential id, base64url; empty
    for a key. sign_count: the highest counter seen (Web Authentication Level 3, section 6.1.1). label: what
    the person calls it. proposed_at, decided_at: seconds since the epoch, 0 for not yet.
    """

    id: str
    owner: Identity
    kind: Kind
    public_key: str
    credential: str = ""
    label: str = field(default="", repr=False)
    sign_count: int = 0
    state: State = "proposed"
    proposed_at: float = 0.0
    decided_by: str = ""
    decided_at: float = 0.0

    @property
    def fingerprint(self) -> str:
        """Read aloud and compared: 120 bits of the SHA-256 of the public key, in groups of five letters."""
        return fingerprint(self.public_key)


def fingerprint(public_key: str) -> str:
    """As `Authenticator.fingerprint`, of a JWK's own text."""
    digest = int.from_bytes(hashlib.sha256(public_key.encode()).digest()[:15])
    letters = "".join(_ALPHABET[digest >> shift & 31] for shift in range(115, -1, -5))
    return "-".join(letters[at : at + 5] for at in range(0, 20, 5)) + "-" + letters[20:]


def key_id(public_key: str) -> str:
    """The id of a key: `aut_` and the thumbprint (RFC 7638) of its JWK, which holds nothing else."""
    return f"aut_{body_digest(public_key.encode())}"


_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def move(state: State, verb: Verb) -> State:
    """The next state. Raises Refused(`not_found`) for a retired one, Conflict(`wrong_state`)."""
    after = TRANSITIONS[state].get(verb)
    if after is not None:
        return after
    if state == "retired":
        raise Refused("not_found", "no such authenticator")
    raise Conflict("wrong_state", f"the authenticator is {state}")


def check_count(before: int, now: int) -> None:
    """A passkey's counter went on, or there is none. Raises Refused(`cloned`): two of it exist.

    Web Authentication Level 3, section 7.2, step 22.
    """
    if (before or now) and now <= before:
        raise Refused(
            "access_denied",
            "this passkey's counter went back: a copy of it may exist; it was not accepted",
            rule="cloned_authenticator",
            who_can_change_it="the operator (stepwrit authenticators retire)",
        )

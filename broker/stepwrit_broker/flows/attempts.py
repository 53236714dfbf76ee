"""One try of one person at one thing: a nonce that is made here, sealed to what it is for, and good once.

Nothing is kept for it until it is used: the nonce proves itself, and its use is remembered by the store.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Final

from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import ProofUse

ATTEMPT_S: Final = 300.0
_RANDOM, _UNTIL, _MAC = 16, 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """nonce: comes back with the answer. challenge: what is to be signed. until: seconds since the epoch."""

    nonce: bytes = field(repr=False)
    challenge: bytes
    until: float


def begin(house: House, *what: str) -> Try:
    """A try at `what`, for five minutes."""
    nonce, until = make_nonce(house, *what)
    return Try(nonce=nonce, challenge=_challenge(what, nonce), until=until)


def end(house: House, nonce: bytes, *what: str) -> tuple[bytes, ProofUse]:
    """What was to be signed, and the nonce's use. Raises Unproven(`invalid_proof`)."""
    return _challenge(what, nonce), check_nonce(house, nonce, *what, kind="attempt")


def make_nonce(house: House, *what: str) -> tuple[bytes, float]:
    """A nonce for one try at `what`, and its end in seconds since the epoch. The first word says for what
    kind of thing, so that a nonce for one is none for another.
    """
    until = house.clock.now() + ATTEMPT_S
    head = house.entropy.bytes(_RANDOM) + int(until).to_bytes(_UNTIL)
    return head + _mac(house, what, head), until


def check_nonce(house: House, nonce: bytes, *what: str, kind: str) -> ProofUse:
    """The use of a nonce made here for this, while it is young. Raises Unproven(`invalid_proof`)."""
    head, mac = nonce[: _RANDOM + _UNTIL], nonce[_RANDOM + _UNTIL :]
    until = int.from_bytes(head[_RANDOM:])
    if not hmac.compare_digest(mac, _mac(house, what, head)):
        raise Unproven("invalid_proof", "this attempt was not begun here", rule="nonce")
    if house.clock.now() >= until:
        raise Unproven("invalid_proof", "this attempt took too long; begin again", rule="nonce")
    return ProofUse(kind=kind, key=nonce.hex(), until=float(until))


def _challenge(what: tuple[str, ...], nonce: bytes) -> bytes:
    """Never one of an approval: that is of a nonce and a digest, this of words."""
    return hashlib.sha256(json.dumps(["stepwrit", *what, nonce.hex()]).encode()).digest()


def _mac(house: House, what: tuple[str, ...], head: bytes) -> bytes:
    said = json.dumps(["stepwrit attempt", *what, head.hex()])
    return hmac.new(house.pepper, said.encode(), hashlib.sha256).digest()[:_MAC]

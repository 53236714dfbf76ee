"""A security event of an identity provider becomes a mark on the person, durable before the answer."""

from __future__ import annotations

import hashlib

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import Evidence, MarkCommand, Operation, ProofUse
from stepwrit_broker.ports_signal import Signal, Signals

BY_SIGNAL = "signal of "  # and the issuer: whose word a mark is
KEPT_S = 172_800.0  # longer than the oldest event that is taken: what was used is never forgotten too early


async def receive(
    house: House, signals: Signals, unverified: str, authorization: str | None
) -> tuple[Signal, bool]:
    """The event, and whether it changed anything; one that came before changes nothing.

    What stops a person is a freeze by the issuer's name, which an operator lifts, or the same issuer's
    `account-enabled`; a purged account is revoked. What the issuer may lift again takes the place of nobody
    else's mark. Raises Unproven, Unavailable.
    """
    signal = await signals.judge(unverified, authorization, house.clock.now())
    if signal.subject is None or not signal.acts:
        return signal, False
    target = f"requester:{house.opaque(Identity(signal.issuer, signal.subject))}"
    if signal.event == "account-enabled":
        return signal, await _enable(house, signal, target, unverified)
    verb = "revoke" if signal.event == "account-purged" else "freeze"
    return signal, await _put(house, signal, target, verb, unverified)


async def _enable(house: House, signal: Signal, target: str, unverified: str) -> bool:
    """Only what this issuer's `account-disabled` froze, and no later one: events can overtake each other."""
    stands = house.store.marks().get(target)
    reason = _reason(signal, "account-disabled")
    if stands is None or stands.verb != "freeze" or (stands.by, stands.reason) != (_by(signal), reason):
        return False
    if signal.at < stands.at:
        return False
    return await _put(house, signal, target, "unfreeze", unverified)


async def _put(house: House, signal: Signal, target: str, verb: str, unverified: str) -> bool:
    now = house.clock.now()
    mark = Mark(
        target=target,
        verb="revoke" if verb == "revoke" else "freeze",
        reason=_reason(signal, signal.event),
        by=_by(signal),
        at=min(now, signal.at),
        ref=house.ref(),
    )
    digest = hashlib.sha256(unverified.rpartition(".")[0].encode()).hexdigest()
    op = Operation(caller=_by(signal), key="", verb="signal", id=signal.jti, digest=digest)
    once = ProofUse(kind="set", key=f"{signal.issuer} {signal.jti}", until=signal.at + KEPT_S)
    evidence = Evidence(facts={"signal": signal.event, "issuer": signal.issuer})
    command = MarkCommand(
        op=op,
        mark=mark,
        lift=verb == "unfreeze",
        evidence=evidence,
        now=now,
        proofs=(once,),
        yields=signal.event == "account-disabled",
    )
    try:
        await house.store.mark(command)
    except Refused:  # it was told before, or what it lifts has been lifted meanwhile
        return False
    return True


def _by(signal: Signal) -> str:
    return f"{BY_SIGNAL}{signal.issuer}"


def _reason(signal: Signal, event: str) -> str:
    return f"{event}, says {signal.issuer}"

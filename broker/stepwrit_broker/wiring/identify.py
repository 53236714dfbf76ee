"""The broker's own SVID at its start; without the right one it does not start, and says what to do."""

from __future__ import annotations

import asyncio
from typing import Final

from stepwrit._look import Offered, offered_x509
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity, X509Snapshot
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit_broker.core.errors import Unavailable

AUTHORITIES_WAIT_S: Final = 5.0
LOOK_S: Final = 0.02
REGISTER = "register it (stepwrit spire entries), and ask stepwrit doctor, as this user, what is missing"


async def identified(
    identity: WorkloadIdentity, broker_id: str, wait_s: float, hint: str | None = None
) -> X509Snapshot:
    """Our SVID, waiting up to `wait_s` seconds, if it is `broker_id`'s.

    Raises IdentityUnavailable, or Unavailable when the Workload API says that we are somebody else.
    """
    try:
        snapshot = await identity.wait_ready(wait_s)
    except IdentityUnavailable as missing:
        raise IdentityUnavailable(f"{missing}; expected {broker_id}: {REGISTER}") from None
    if snapshot.spiffe_id != broker_id:
        offered = await asyncio.to_thread(_offered, identity.socket)
        raise Unavailable(
            "unavailable",
            f"the Workload API {identity.socket} says that we are {snapshot.spiffe_id}; "
            f"expected {broker_id}; " + others(offered, broker_id, hint),
            rule="broker_id",
            who_can_change_it="the operator (the registration entry, or broker.toml broker_id, spiffe_hint)",
        )
    return snapshot


async def first_authorities(watch: JwtBundleWatch) -> None:
    """Wait for the first answer about JWT authorities, or that there will be none for now.

    Callers with a certificate need none, so a broker whose Workload API has none starts all the same.
    """
    for _ in range(int(AUTHORITIES_WAIT_S / LOOK_S)):
        if watch.current().generation or watch.health().state != "starting":
            return
        await asyncio.sleep(LOOK_S)


def others(offered: tuple[Offered, ...], wanted: str, hint: str | None) -> str:
    """What else is on offer, and what to do to be `wanted`."""
    names = ", ".join(map(str, offered)) or "nothing now"
    if wanted not in {each.spiffe_id for each in offered}:
        return f"offered: {names}; {REGISTER}"
    how = "change spiffe_hint" if hint else "give its entry a hint and set spiffe_hint"
    return f"offered: {names}; narrow the selectors of the other entries, or {how}"


def _offered(socket: str) -> tuple[Offered, ...]:
    try:
        return offered_x509(socket)
    except IdentityUnavailable:
        return ()

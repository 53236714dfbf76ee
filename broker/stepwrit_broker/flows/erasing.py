"""Erasing what of a transaction can be read or guessed from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.ids import is_id, is_ref
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.revoke import REASON_MAX, Operator
from stepwrit_broker.ports import LedgerView, LoggedEntry
from stepwrit_broker.ports_ledger import EraseCommand, Erased, Eraser


async def erase(
    house: House, ledger: LedgerView, eraser: Eraser, operator: Operator, name: str, reason: str
) -> Erased:
    """Erase the salt and the documents of a transaction, or of what was recorded under a ref outside any.

    Afterwards nobody can show what its digests stand for; entries, hashes and proofs stay. Raises Malformed;
    Refused(`not_found`): unknown, another tenant's and already erased look alike; (`wrong_state`) while it
    lives; Unavailable.
    """
    if not reason.strip() or len(reason) > REASON_MAX:
        raise Malformed("invalid_request", f"reason: 1 to {REASON_MAX} characters")
    entries = await asyncio.to_thread(_entries, ledger, name, operator.tenant)
    if not entries:
        raise Refused("not_found", "nothing is recorded under this name")
    command = EraseCommand(
        name=name,
        txn=entries[0].txn,
        tenant=entries[0].tenant,
        reason=reason,
        by=operator.name,
        ref=house.ref(),
        now=house.clock.now(),
    )
    return await eraser.erase(command)


def _entries(ledger: LedgerView, name: str, tenant: str | None) -> Sequence[LoggedEntry]:
    if is_id("txn", name):
        return [each for each in ledger.of_txn(name) if tenant in (None, each.tenant)]
    return ledger.by_ref(name, tenant) if is_ref(name) else ()

"""Forgetting a transaction: its salt and its documents go, the tree stays, and the act is an entry."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import FINAL
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_ledger import EraseCommand, Erased
from stepwrit_broker.store.common import write_entry
from stepwrit_broker.store.state import State

_LIVE: Final = "SELECT count(*) FROM steps WHERE txn = ? AND state NOT IN (SELECT value FROM json_each(?))"
_FINAL: Final = "[" + ", ".join(f'"{each}"' for each in sorted(FINAL)) + "]"


def erase(state: State, command: EraseCommand) -> Erased:
    """One atomic operation. Raises Refused(`wrong_state`) while a step lives, (`not_found`)."""
    now = state.at(command.now)
    live: int = state.conn.execute(_LIVE, (command.name, _FINAL)).fetchone()[0]
    if live:
        raise Refused(
            "wrong_state",
            f"{live} steps of this transaction have not ended; revoke it first, then erase",
            who_can_change_it="the operator (stepwrit revoke txn)",
        )
    salts = int(state.log.erase_salt(state.conn, command.name))
    documents = state.log.erase_decisions(state.conn, command.name)
    if not salts and not documents:
        raise Refused("not_found", "nothing of this transaction is kept beside the ledger")
    state.txns.forget(command.name)  # it holds the salt
    facts = {"erased": command.name, "reason": command.reason, "by": command.by, "documents": documents}
    write_entry(
        state,
        "txn.erased",
        command.ref,
        now,
        facts,
        Evidence(),
        txn=command.txn,
        salt=b"",
        tenant=command.tenant,
    )
    return Erased(ref=command.ref, documents=documents)

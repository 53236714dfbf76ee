"""Bearer documents and the first key shown with each."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.ports import KeyPin
from stepwrit_broker.store.common import check_kept, name_of, spend_proofs
from stepwrit_broker.store.state import State

_GET: Final = "SELECT jkt FROM pins WHERE key = ?"
_PUT: Final = "INSERT INTO pins (key, jkt, until) VALUES (?, ?, ?)"


def pin(state: State, wanted: KeyPin) -> None:
    """Keep the first pair; Refused for another key. Only then are its proofs used up.

    Raises Unavailable where the first pair may have been purged: the store's time is beyond the document's.
    """
    state.at(wanted.now)
    check_kept(state, wanted.until)
    key = name_of("jwt-svid", wanted.svid)
    row: tuple[str] | None = state.conn.execute(_GET, (key,)).fetchone()
    if row is None:
        state.conn.execute(_PUT, (key, wanted.jkt, wanted.until))
    elif row[0] != wanted.jkt:
        raise Refused(
            "replay",
            "this JWT-SVID was first shown with another key: it was stolen, or two processes share it",
            rule="second_key",
            who_can_change_it="the operator of the caller (one SPIFFE ID, or one key, for each process)",
        )
    spend_proofs(state, wanted.proofs)

"""People's passkeys and keys as rows, each change with its entry."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from stepwrit_broker.core import authenticator as core
from stepwrit_broker.core import entry
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_approval import DecideCommand, Given, PresentCommand, ProposeCommand
from stepwrit_broker.store.common import spend_proofs, write_entry
from stepwrit_broker.store.state import State

_COLUMNS: Final = (
    "id, issuer, subject, kind, public_key, credential, label, sign_count, state, proposed_at, decided_by,"
    " decided_at"
)
BY_NAME: Final = f"SELECT {_COLUMNS} FROM authenticators WHERE id = ? OR credential = ?"  # noqa: S608
NAMES: Final = "aut_"  # how our own begin; a credential id is the authenticator's choice
ALL: Final = f"SELECT {_COLUMNS} FROM authenticators ORDER BY seq"  # noqa: S608
OF_OWNER: Final = f"SELECT {_COLUMNS} FROM authenticators WHERE issuer = ? AND subject = ? ORDER BY seq"  # noqa: S608
_PUT: Final = f"INSERT INTO authenticators ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'proposed', ?, '', 0)"  # noqa: S608
_DECIDE: Final = "UPDATE authenticators SET state = ?, decided_by = ?, decided_at = ? WHERE id = ?"
_COUNTED: Final = "SELECT sign_count, state, issuer, subject FROM authenticators WHERE id = ?"
_COUNT: Final = "UPDATE authenticators SET sign_count = ? WHERE id = ?"
_ENTRY: Final[dict[core.Verb, entry.EntryKind]] = {
    "approve": "authenticator.approved",
    "retire": "authenticator.retired",
}


def propose(state: State, command: ProposeCommand) -> Authenticator:
    """A new row. Raises Conflict(`wrong_state`) when the key or the credential is known."""
    now, new = state.at(command.now), command.authenticator
    if new.credential.startswith(NAMES):
        raise Conflict("wrong_state", "this passkey's credential id could pass for another's name")
    spend_proofs(state, command.proofs)
    row = (
        new.id, new.owner.issuer, new.owner.subject, new.kind, new.public_key, new.credential or None,
        new.label, new.sign_count, now,
    )  # fmt: skip
    try:
        state.conn.execute(_PUT, row)
    except sqlite3.IntegrityError:
        raise Conflict("wrong_state", "this key is known already") from None
    made = _get(state, new.id)
    _tell(state, "authenticator.proposed", made, command.who, command.ref, now, {}, command.evidence)
    return made


def decide(state: State, command: DecideCommand) -> Authenticator:
    """Approve or retire it."""
    now, found = state.at(command.now), _get(state, command.authenticator)
    after = core.move(found.state, command.verb)
    state.conn.execute(_DECIDE, (after, command.by, now, found.id))
    made = _get(state, found.id)
    said: dict[str, object] = {"by": command.by, "reason": command.reason}
    _tell(state, _ENTRY[command.verb], made, command.who, command.ref, now, said, Evidence())
    return made


def present(state: State, command: PresentCommand) -> None:
    """A person signs in: its proofs are used up, and a passkey's counter goes on."""
    state.at(command.now)
    spend_proofs(state, command.proofs)
    check_shown(state, command)


def check_shown(state: State, given: Given | PresentCommand) -> None:
    """It is still the signer's, active, and its counter went on: compared where it is stored."""
    if given.authenticator is None:
        return
    row: tuple[int, str, str, str] | None = state.conn.execute(_COUNTED, (given.authenticator,)).fetchone()
    if row is None or row[1] != "active" or Identity(row[2], row[3]) != given.by:
        raise Refused("access_denied", "this authenticator is not registered", rule="authenticator")
    if given.sign_count is not None:
        core.check_count(row[0], given.sign_count)
        state.conn.execute(_COUNT, (given.sign_count, given.authenticator))


def decode(row: tuple[Any, ...]) -> Authenticator:
    """From the columns."""
    return Authenticator(
        id=row[0],
        owner=Identity(row[1], row[2]),
        kind=row[3],
        public_key=row[4],
        credential=row[5] or "",
        label=row[6],
        sign_count=row[7],
        state=row[8],
        proposed_at=row[9],
        decided_by=row[10],
        decided_at=row[11],
    )


def _get(state: State, name: str) -> Authenticator:
    row = state.conn.execute(BY_NAME, (name, name)).fetchone()
    if row is None:
        raise Refused("not_found", "no such authenticator")
    return decode(row)


def _tell(
    state: State,
    kind: entry.EntryKind,
    told: Authenticator,
    who: str,
    ref: str,
    now: float,
    said: dict[str, object],
    evidence: Evidence,
) -> None:
    """The public key is told, so that signatures can be verified from the ledger alone."""
    facts: dict[str, object] = {
        "authenticator": told.id,
        "person": who,
        "kind_of_authenticator": told.kind,
        "public_key": told.public_key,
        "fingerprint": told.fingerprint,
        **said,
    }
    write_entry(state, kind, ref, now, facts, evidence, txn=None, salt=b"", tenant=None)

"""The operator's words: marks, versions; and entries that belong to no verb."""

from __future__ import annotations

from typing import Final, cast

from stepwrit_broker.core import entry
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.ports import Evidence, Happening, MarkCommand, VersionCommand
from stepwrit_broker.store.common import SALT_BYTES, answer, answered, op_key, spend_proofs, write_entry
from stepwrit_broker.store.reading import find_grant, find_step, find_txn
from stepwrit_broker.store.rows import Txn, decode_mark, encode_mark
from stepwrit_broker.store.state import State, stronger

_PUT: Final = (
    "INSERT OR REPLACE INTO marks (target, verb, reason, by, at, ref, walked) VALUES (?, ?, ?, ?, ?, ?, 0)"
)
_WRITTEN: Final = "SELECT 1 FROM marks WHERE target = ? AND verb = ?"
_DROP: Final = "DELETE FROM marks WHERE target = ?"
_PUT_VERSION: Final = (
    "INSERT INTO versions (kind, number, digest, source, doc, by, reason, at, ref)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LAST_REF: Final = "SELECT ref FROM versions WHERE kind = ? AND number = ?"


def mark(state: State, command: MarkCommand) -> Mark:
    """Set one mark, or lift a freeze; in force for everything after it in this very batch."""
    now, key = state.at(command.now), op_key(command.op)
    first = answered(state, key, command.op)
    if first is not None:
        return decode_mark(first)
    spend_proofs(state, command.proofs)
    kind: entry.EntryKind = "mark.lifted" if command.lift else "mark.set"
    wanted = command.mark
    stands = _lift(state, wanted.target) if command.lift else _set(state, wanted, yields=command.yields)
    txn = _txn_of(state, wanted.target)
    write_entry(
        state,
        kind,
        wanted.ref,
        now,
        {**entry.mark_facts(wanted), "stands": stands.verb},
        command.evidence,
        txn=None if txn is None else txn.txn,
        salt=state.entropy.bytes(SALT_BYTES) if txn is None else txn.salt,
        tenant=None,
    )
    answer(state, key, command.op, encode_mark(stands), now)
    state.save_time(at_once=True)
    return stands


def _set(state: State, wanted: Mark, *, yields: bool = False) -> Mark:
    standing = state.marks.get(wanted.target)
    if yields and standing is not None and (standing.by, standing.reason) != (wanted.by, wanted.reason):
        stands = standing
    else:
        stands = stronger(standing, wanted)
    if stands is wanted or not _is_written(state, stands):
        row = (stands.target, stands.verb, stands.reason, stands.by, stands.at, stands.ref)
        state.conn.execute(_PUT, row)
        state.journal.set(state.marks, stands.target, stands)
    return stands


def _is_written(state: State, stands: Mark) -> bool:
    """A mark whose own commit failed stands in memory alone: what is acknowledged on it must be written."""
    return state.conn.execute(_WRITTEN, (stands.target, stands.verb)).fetchone() is not None


def _lift(state: State, target: str) -> Mark:
    found = state.marks.get(target)
    if found is None or found.verb != "freeze":
        raise Refused("not_found", "no freeze stands on that target")
    state.conn.execute(_DROP, (target,))
    state.journal.drop(state.marks, target)
    return found


def _txn_of(state: State, target: str) -> Txn | None:
    """The transaction that a mark speaks of, so that its story can be told with it."""
    kind, _, name = target.partition(":")
    if kind == "grant":
        grant = find_grant(state, name)
        kind, name = "txn", "" if grant is None else grant.record.grant.txn
    if kind == "step":
        found = find_step(state, name)
        return None if found is None else found[1]
    return find_txn(state, name) if kind == "txn" else None


def apply(state: State, command: VersionCommand) -> StoredVersion:
    """The next version of a document with its marks. A repeat of the last one gets the same answer."""
    now, standing = state.at(command.now), state.versions.get(command.kind)
    number = 0 if standing is None else standing.number
    if standing is not None and number == command.expected + 1 and _is_same(state, command, standing):
        return standing
    if number != command.expected:
        raise Conflict("stale_version", f"version {number} of the {command.kind} is in force")
    version = StoredVersion(
        kind=command.kind,
        number=number + 1,
        digest=command.digest,
        source=command.source,
        doc=command.doc,
        by=command.by,
        reason=command.reason,
        at=now,
        ref=command.ref,
    )
    row = (
        version.kind, version.number, version.digest, version.source, version.doc, version.by,
        version.reason, now, command.ref,
    )  # fmt: skip
    state.conn.execute(_PUT_VERSION, row)
    state.journal.set(state.versions, command.kind, version)
    lifted = [target for target in command.lifts if _is_frozen(state, target)]
    _tell_version(state, command, version, lifted, now)
    for target in lifted:
        _tell_mark(state, "mark.lifted", _lift(state, target), command, now)
    for wanted in command.marks:
        _set(state, wanted)
        _tell_mark(state, "mark.set", wanted, command, now)
    state.save_time(at_once=True)
    return version


def _is_same(state: State, command: VersionCommand, standing: StoredVersion) -> bool:
    row = state.conn.execute(_LAST_REF, (standing.kind, standing.number)).fetchone()
    return standing.digest == command.digest and row is not None and row[0] == command.ref


def _is_frozen(state: State, target: str) -> bool:
    found = state.marks.get(target)
    return found is not None and found.verb == "freeze"


def _tell_version(
    state: State, command: VersionCommand, version: StoredVersion, lifted: list[str], now: float
) -> None:
    facts: dict[str, object] = {
        "document": version.kind,
        "number": version.number,
        "digest": version.digest,
        "source": version.source,
        "by": version.by,
        "reason": version.reason,
        "marks": len(command.marks),
        "lifts": len(lifted),
    }
    salt = state.entropy.bytes(SALT_BYTES)
    write_entry(
        state, "version.applied", command.ref, now, facts, command.evidence, txn=None, salt=salt, tenant=None
    )


def _tell_mark(state: State, kind: entry.EntryKind, told: Mark, command: VersionCommand, now: float) -> None:
    facts = {**entry.mark_facts(told), "with_version_of": command.kind}
    write_entry(state, kind, told.ref, now, facts, Evidence(), txn=None, salt=b"", tenant=None)


def record(state: State, happening: Happening) -> None:
    """One entry of its own. A decision outside any transaction is salted under the entry's ref."""
    now = state.at(happening.now)
    known = None if happening.txn is None else find_txn(state, happening.txn)
    salt, own = b"" if known is None else known.salt, None
    if known is None and happening.evidence.decision is not None:
        salt, own = state.entropy.bytes(SALT_BYTES), happening.ref
        state.log.put_salt(state.conn, happening.ref, salt)
    write_entry(
        state,
        cast("entry.EntryKind", happening.kind),
        happening.ref,
        now,
        {},
        happening.evidence,
        txn=happening.txn,
        salt=salt,
        tenant=happening.tenant,
        salted_for=own,
    )

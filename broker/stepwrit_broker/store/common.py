"""What all verbs share: operation ids, proofs, marks, entries; all inside the atomic call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from stepwrit.wire import ACCEPTED_MAX_S, HEARTBEAT_LOST_S, WAITING_MAX_S
from stepwrit_broker.core import clocks, entry, marks, standing
from stepwrit_broker.core.errors import Conflict, Malformed, Refused, Unavailable
from stepwrit_broker.core.limits import Lives
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.ports import Evidence, Operation, ProofUse
from stepwrit_broker.store.rows import GrantRow, StepRow, Txn
from stepwrit_broker.store.state import State

SALT_BYTES: Final = entry.SALT_BYTES
KEEP_S: Final = 1800.0  # rows and answers outlive every token and every retry
_RESERVED: Final = frozenset({"v", "kind", "ref", "at"})
_OP_GET: Final = "SELECT digest, answer FROM ops WHERE key = ?"
_OP_PUT: Final = "INSERT INTO ops (key, digest, answer, at) VALUES (?, ?, ?, ?)"
_DEFAULT_LIVES: Final = Lives(
    step_token_s=60.0,
    accepted_s=float(ACCEPTED_MAX_S),
    waiting_s=float(WAITING_MAX_S),
    credential_s=60.0,
    intent_s=3600.0,
    lost_s=float(HEARTBEAT_LOST_S),
)
_encoded: Final = msgspec.json.Encoder(order="sorted").encode


def name_of(*parts: str) -> bytes:
    """Sixteen bytes for some strings; lengths go in, so that no two lists of parts say the same."""
    sized = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.sha256(sized.encode("utf-8", "surrogatepass")).digest()[:16]


def op_key(op: Operation) -> bytes:
    """An operation's name within its scope (caller, key, verb)."""
    return name_of(op.caller, op.key, op.verb, op.id)


def answered(state: State, key: bytes, op: Operation) -> str | None:
    """The first answer to this operation, if there was one. Raises Conflict for another content."""
    row: tuple[str, str] | None = state.conn.execute(_OP_GET, (key,)).fetchone()
    if row is None:
        return None
    if row[0] != op.digest:
        raise Conflict("operation_reused", "this operation id was used for another request")
    return row[1]


def answer(state: State, key: bytes, op: Operation, says: str, now: float) -> None:
    """Keep the first answer."""
    state.conn.execute(_OP_PUT, (key, op.digest, says, now))


def spend_proofs(state: State, proofs: tuple[ProofUse, ...]) -> None:
    """Use each proof once and for all. Raises Refused(`replay`) for one that was seen, Unavailable."""
    for proof in proofs:
        check_kept(state, proof.until)
        if not state.spend(name_of(proof.kind, proof.key), proof.kind, proof.until):
            raise Refused("replay", f"this {proof.kind} proof was used before", rule=f"proof {proof.kind}")


def check_kept(state: State, until: float) -> None:
    """Raises Unavailable when what had to be remembered `until` then may be purged already.

    The clock went ahead and came back: by it the thing is good again, but nobody knows any more of its use.
    """
    if until < state.high:
        raise Unavailable(
            "unavailable",
            "the clock is behind the store's time: whether this was used before is not known",
            rule="clock",
            retry_after=1.0,
        )


def check_marks(state: State, subjects: Iterable[str], row: StepRow | None = None) -> None:
    """Raises Refused when a mark stands against the subjects, or against the step and all above it."""
    if not state.marks:
        return
    marks.test(state.marks, subjects)
    if row is not None:
        marks.test(state.marks, step_subjects(row))


def check_new(state: State, step: Step) -> None:
    """Raises Refused when a mark stands against a step that is about to be opened."""
    if state.marks:
        marks.test(state.marks, marks.subjects_of_step(step))


def step_subjects(row: StepRow) -> tuple[str, ...]:
    """Everything whose mark stops this step, whoever accepted it included."""
    if row.subjects is None:
        performer, step = row.record.life.performer, row.record.step
        own = () if performer is None else marks.subjects_of_workload(performer)
        row.subjects = (*marks.subjects_of_step(step), *own)
    return row.subjects


def grant_subjects(row: GrantRow) -> tuple[str, ...]:
    """Everything whose mark stops this credential beyond its step."""
    return marks.subjects_of_grant(row.record.grant)


def lives(state: State) -> Lives:
    """The clocks in force; the widest known to the wire while no limits are loaded."""
    limits = state.known_limits()
    return _DEFAULT_LIVES if limits is None else limits.lives


def ends_at(state: State, record: StepRecord) -> float:
    """When the step's running clock runs out, seconds since the epoch."""
    return clocks.ends_at(lives(state), record)


def check_running(state: State, record: StepRecord, txn: Txn, now: float) -> None:
    """Raises Refused(`expired`) when a clock of the step or its transaction has run out."""
    standing.check_clocks(ends_at=ends_at(state, record), txn_ends_at=txn.expires_at, now=now)


def write_entry(
    state: State,
    kind: entry.EntryKind,
    ref: str,
    now: float,
    facts: Mapping[str, object],
    evidence: Evidence,
    *,
    txn: str | None,
    salt: bytes,
    tenant: str | None,
    salted_for: str | None = None,
) -> None:
    """Append the hop's entry and keep its decision document beside the log. Our facts win over evidence.

    salted_for: whose the salt is, where it is not the transaction's.
    """
    said = {**evidence.facts, **facts}
    if not _RESERVED.isdisjoint(said):
        raise Malformed("invalid_request", "a ledger entry's own members cannot be given as facts")
    if evidence.decision is not None:
        digest, doc = entry.decision_digest(salt, evidence.decision, _encoded)
        state.log.put_decision(state.conn, digest, salted_for or txn, doc)
        said["decision"] = digest
    try:
        body = entry.encode(kind, ref, now, said, _encoded)
    except ValueError:
        raise Malformed("invalid_request", "the ledger entry would be too large") from None
    state.log.append(state.conn, body=body, at=now, kind=kind, txn=txn, ref=ref, tenant=tenant)
    state.ledger_bytes += len(body)

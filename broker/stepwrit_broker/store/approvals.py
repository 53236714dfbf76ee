"""Approvals as rows: asked with their step, signed, used, ended; each in the atomic call it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import msgspec

from stepwrit_broker.core import approval, entry, limits
from stepwrit_broker.core import step as steps
from stepwrit_broker.core.approval import ApprovalRecord, Ask, Asked, Event, Signed, may_sign, missing
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_approval import RefuseCommand, SignCommand
from stepwrit_broker.store.authenticators import check_shown
from stepwrit_broker.store.common import check_marks, spend_proofs, write_entry
from stepwrit_broker.store.reading import find_step, get_step, move_step
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State

COLUMNS: Final = "id, step, state, by, reason, ended_at, asked"
BY_ID: Final = f"SELECT {COLUMNS} FROM approvals WHERE id = ?"  # noqa: S608  a constant
BY_STEP: Final = f"SELECT {COLUMNS} FROM approvals WHERE step = ?"  # noqa: S608  a constant
SIGNATURES: Final = (
    "SELECT issuer, subject, digest, at, method, authenticator, EXISTS (SELECT 1 FROM authenticators"
    " WHERE id = signatures.authenticator AND state = 'retired')"
    " FROM signatures WHERE approval = ? ORDER BY at"
)
_PUT: Final = (
    "INSERT INTO approvals (id, step, txn, tenant, requester, initiator, tool, state, by, reason, ended_at,"
    " asked, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, 'asked', '', '', 0, ?, ?)"
)
_MOVE: Final = "UPDATE approvals SET state = ?, by = ?, reason = ?, ended_at = ?, sealed = ? WHERE id = ?"
_GIVE: Final = "UPDATE approvals SET state = 'given' WHERE id = ?"
_SIGN: Final = (
    "INSERT OR REPLACE INTO signatures (approval, issuer, subject, digest, method, authenticator, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_to_json: Final = msgspec.json.Encoder().encode
_ENTRY: Final[dict[Event, entry.EntryKind]] = {
    "give": "approval.given",
    "use": "approval.used",
    "deny": "approval.denied",
    "cancel": "approval.cancelled",
    "expire": "approval.expired",
}
_EVENT_OF: Final[dict[str, Event]] = {"expire": "expire", "deny": "deny"}


def asker_of(step: Step) -> str:
    """Whom an approval is counted against: the requester, or a trigger's owner."""
    who = step.intent.requester
    return who.opaque if who is not None else f"owner:{step.intent.owner}"


def ask(state: State, wanted: Ask, txn: Txn, now: float) -> None:
    """One more approval beside the step that is being opened. Raises Refused(`limit`)."""
    asked, step = wanted.asked, wanted.asked.step
    _check_asking(state, step, now)
    row = (
        asked.id, step.id, step.txn, step.tenant, asker_of(step), step.initiator, asked.action.tool,
        _encode(asked), wanted.sealed,
    )  # fmt: skip
    state.conn.execute(_PUT, row)
    facts = {"digest": asked.digest, "policies": list(asked.policies), "expires_at": asked.expires_at}
    evidence = Evidence(decision={"signed": asked.signed})
    _tell(state, "approval.asked", asked, txn, now, facts, ref=step.ref, evidence=evidence)


def _check_asking(state: State, step: Step, now: float) -> None:
    who, tool = asker_of(step), "" if step.action is None else step.action.tool
    in_force = state.limits()
    since = now - in_force.approvals.cooldown_s
    limits.may_ask(in_force, state.asked(who, step.tenant, step.initiator, tool, since), now)


def sign(state: State, command: SignCommand) -> ApprovalRecord:
    """Add one signature; the last that was missing opens the step in the same write."""
    now = state.at(command.now)
    record, row, txn = _get(state, command.approval)
    check_marks(state, command.subjects, row)
    approval.move(record.state, "give")  # raises for every state but `asked`
    if now >= record.asked.expires_at:
        raise Refused("expired_token", "the approval has expired")
    _check_signer(record.asked, command)
    spend_proofs(state, command.given.proofs)  # first: what is shown twice is a replay, not a clone
    if any(each.by == command.signed.by and not each.withdrawn for each in record.signed):
        raise Conflict("wrong_state", "this person has signed it already")
    check_shown(state, command.given)
    made = replace(command.signed, at=now)
    state.conn.execute(
        _SIGN,
        (record.asked.id, made.by.issuer, made.by.subject, made.digest, made.method, made.authenticator, now),
    )
    signed = (*(each for each in record.signed if each.by != made.by), made)
    record = replace(record, signed=signed)
    _tell_signature(state, record, command, txn, now)
    return (
        _given(state, record, row, txn, now) if not missing(record.asked, signed, command.persons) else record
    )


def _check_signer(asked: Asked, command: SignCommand) -> None:
    if command.signed.digest != asked.digest:
        raise Refused("access_denied", "what was signed is something else", rule="digest")
    if not may_sign(asked, command.signed.by, command.persons):
        raise Refused("access_denied", "this person is not among those who may sign", rule="eligible")


def _tell_signature(state: State, record: ApprovalRecord, command: SignCommand, txn: Txn, now: float) -> None:
    given = command.given
    facts: dict[str, object] = {
        "digest": command.signed.digest,
        "method": given.method,
        "authenticator": given.authenticator,
        "who": entry.salted(txn.salt, command.who),
        "evidence": dict(given.evidence),
        "missing": missing(record.asked, record.signed, command.persons),
    }
    kept = Evidence(decision=given.kept)
    _tell(state, "approval.signed", record.asked, txn, now, facts, ref=command.ref, evidence=kept)


def _given(state: State, record: ApprovalRecord, row: StepRow, txn: Txn, now: float) -> ApprovalRecord:
    move_step(state, row, replace(row.record.life, state=steps.move(row.record.life.state, "approve")))
    state.conn.execute(_GIVE, (record.asked.id,))
    _tell(state, "approval.given", record.asked, txn, now, {"signatures": len(record.signed)})
    return replace(record, state=approval.move(record.state, "give"))


def use(state: State, row: StepRow, txn: Txn, now: float) -> None:
    """The step's approval, if it has one, is used up by its first accept."""
    if row.record.step.approve_by is not None:
        record = find(state, row.record.step.id)
        if record is None:
            raise Refused("approval_required", "the step's approval is gone")
        _end(state, record, "use", txn, now, by="", reason="")


def refuse(state: State, command: RefuseCommand) -> tuple[ApprovalRecord, StepRow, Txn]:
    """Deny or cancel: the approval's part. The caller ends the step."""
    now = state.at(command.now)
    record, row, txn = _get(state, command.approval)
    if command.verb == "deny":
        by = entry.salted(txn.salt, command.by)
        return _end(state, record, "deny", txn, now, by=by, reason=command.reason, ref=command.ref), row, txn
    after = _end(state, record, "cancel", txn, now, by=command.by, reason=command.reason, ref=command.ref)
    return after, row, txn


def end_with(state: State, step: Step, event: str, txn: Txn, now: float) -> None:
    """The step ended: so does an approval that was not used."""
    if step.approve_by is None:
        return
    record = find(state, step.id)
    if record is not None and record.state in ("asked", "given"):
        _end(state, record, _EVENT_OF.get(event, "cancel"), txn, now, by="", reason="its step ended")


def purge(state: State, step: str) -> None:
    """Rows of a step that is purged."""
    conn = state.conn
    conn.execute("DELETE FROM signatures WHERE approval = (SELECT id FROM approvals WHERE step = ?)", (step,))
    conn.execute("DELETE FROM approvals WHERE step = ?", (step,))


def find(state: State, step: str) -> ApprovalRecord | None:
    """The approval of a step, as the batch under way sees it."""
    row = state.conn.execute(BY_STEP, (step,)).fetchone()
    found = None if row is None else find_step(state, step)
    return None if row is None or found is None else decode(row, _signed(state, row[0]), found[0].record.step)


def _get(state: State, name: str) -> tuple[ApprovalRecord, StepRow, Txn]:
    row = state.conn.execute(BY_ID, (name,)).fetchone()
    if row is None:
        raise Refused("not_found", "no such approval")
    found, txn = get_step(state, row[1])
    return decode(row, _signed(state, name), found.record.step), found, txn


def _signed(state: State, name: str) -> list[Any]:
    return state.conn.execute(SIGNATURES, (name,)).fetchall()


def _end(
    state: State,
    record: ApprovalRecord,
    event: Event,
    txn: Txn,
    now: float,
    *,
    by: str,
    reason: str,
    ref: str | None = None,
) -> ApprovalRecord:
    """Move it for good; the text that was kept for persons to read is erased."""
    after = approval.move(record.state, event)
    state.conn.execute(_MOVE, (after, by, reason, now, None, record.asked.id))
    facts: dict[str, object] = {"digest": record.asked.digest, "by": by}
    if event == "deny":  # a person's own words: kept beside the log, where they can be erased
        evidence = Evidence(decision={"reason": reason})
    else:
        facts["reason"], evidence = reason, Evidence()
    _tell(state, _ENTRY[event], record.asked, txn, now, facts, ref=ref, evidence=evidence)
    return replace(record, state=after, by=by, reason=reason, ended_at=now)


def _tell(
    state: State,
    kind: entry.EntryKind,
    asked: Asked,
    txn: Txn,
    now: float,
    facts: Mapping[str, object],
    *,
    ref: str | None = None,
    evidence: Evidence | None = None,
) -> None:
    step = asked.step
    said = {**entry.hop_facts(step), "approval": asked.id, **facts}
    write_entry(
        state,
        kind,
        ref or step.ref,
        now,
        said,
        evidence or Evidence(),
        txn=txn.txn,
        salt=txn.salt,
        tenant=step.tenant,
    )


def _encode(asked: Asked) -> str:
    terms = [(each.count, sorted(each.persons), each.requester, each.alone) for each in asked.terms]
    body = (
        asked.nonce, str(asked.performer), asked.kind, asked.policies, dict(asked.versions), terms,
        asked.asked_at, asked.expires_at, asked.text,
    )  # fmt: skip
    return _to_json(body).decode()


def decode(row: tuple[Any, ...], signatures: list[Any], step: Step) -> ApprovalRecord:
    """From COLUMNS, the rows of SIGNATURES, and the step."""
    name, _, state, by, reason, ended_at, body = row
    nonce, performer, kind, policies, versions, terms, asked_at, expires_at, text = msgspec.json.decode(body)
    if step.action is None:
        raise Refused("not_found", "no such approval")
    asked = Asked(
        id=name,
        nonce=nonce,
        step=step,
        action=step.action,
        performer=performer,
        kind=kind,
        policies=tuple(policies),
        versions=versions,
        terms=tuple(
            Terms(count=count, persons=frozenset(persons), requester=requester, alone=alone)
            for count, persons, requester, alone in terms
        ),
        asked_at=asked_at,
        expires_at=expires_at,
        text=text,
    )
    signed = tuple(
        Signed(
            by=Identity(each[0], each[1]),
            digest=each[2],
            at=each[3],
            method=each[4],
            authenticator=each[5],
            withdrawn=bool(each[6]),
        )
        for each in cast("list[tuple[Any, ...]]", signatures)
    )
    return ApprovalRecord(asked=asked, state=state, signed=signed, by=by, reason=reason, ended_at=ended_at)

"""Steps, grants and intents as rows: tight codecs, written out because they are on the hot path.

What never changes of a record is one JSON array in `body`, positions fixed; what moves has columns. A new
member goes to the end of an array, and its reader takes a shorter array of the schema before.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final

import msgspec

from stepwrit.wire import HopSpec, PlanItem
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.obligations import Obligation
from stepwrit_broker.core.step import Action, Intent, Label, Life, Requester, Step, StepRecord, Upstream
from stepwrit_broker.core.versions import StoredVersion

_to_json: Final = msgspec.json.Encoder().encode
_loads: Final = msgspec.json.decode

Row = tuple[Any, ...]  # as SQLite gives it; typed by the functions below

STEP_COLUMNS: Final = (
    "seq, id, txn, parent, state, round, performer, accepted_at, beat_at, waiting_at,"
    " children, ended_at, awaits, body"
)
GRANT_COLUMNS: Final = "seq, id, step, line, state, epoch, expires_at, redeemed_by, redeemed_at, body"


def _encode(value: object) -> str:
    return _to_json(value).decode()


@dataclass(slots=True, kw_only=True)
class StepRow:
    """A step and its row number. `subjects`: what can stop it, worked out when first asked for."""

    seq: int
    record: StepRecord
    subjects: tuple[str, ...] | None = None


@dataclass(slots=True, kw_only=True)
class GrantRow:
    """A grant and its row number."""

    seq: int
    record: GrantRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Txn:
    """A transaction: its intent, its salt, its counts. expires_at: its root's, seconds since the epoch."""

    txn: str
    root: str
    intent: Intent
    salt: bytes
    steps: int
    server_steps: int
    expires_at: float


def encode_intent(intent: Intent) -> str:
    """An intent's columnless part; its `txn` is the row's key."""
    who = intent.requester
    return _encode(
        (
            None if who is None else (who.opaque, who.issuer, who.subject),
            intent.owner,
            intent.proof,
            intent.purpose,
            intent.cause,
            intent.steps_max,
            intent.server_steps_max,
            intent.depth_max,
            intent.cause_txn,
            intent.outside,
            intent.without_step,
            None if intent.upstream is None else astuple(intent.upstream),
        )
    )


def decode_txn(row: Row, salt: bytes) -> Txn:
    """From `txn, root, intent, steps, server_steps, expires_at`."""
    who, owner, proof, purpose, cause, steps_max, server_steps_max, depth_max, *later = _loads(row[2])
    requester = None if who is None else Requester(opaque=who[0], issuer=who[1], subject=who[2])
    intent = Intent(
        txn=row[0],
        requester=requester,
        owner=owner,
        proof=proof,
        purpose=purpose,
        cause=cause,
        steps_max=steps_max,
        server_steps_max=server_steps_max,
        depth_max=depth_max,
        cause_txn=later[0] if later else None,
        outside=tuple(later[1]) if later else (),
        without_step=later[2] if len(later) > 2 else None,
        upstream=_read_upstream(later[3]) if len(later) > 3 else None,
    )
    return Txn(
        txn=row[0],
        root=row[1],
        intent=intent,
        salt=salt,
        steps=row[3],
        server_steps=row[4],
        expires_at=row[5],
    )


def _read_upstream(row: list[Any] | None) -> Upstream | None:
    if row is None:
        return None
    issuer, digest, tool, args, impact, step, txn, ref, origin = row
    return Upstream(
        issuer=issuer, digest=digest, tool=tool, args=args, impact=impact, step=step, txn=txn, ref=ref,
        origin=origin,
    )  # fmt: skip


def encode_step(step: Step) -> str:
    """A step's `body`."""
    chain = [(hop.step, hop.initiator, hop.performer, hop.origin, hop.tool) for hop in step.chain]
    return _encode(
        (
            step.ancestors,
            chain,
            step.initiator,
            step.initiator_jkt,
            step.performer,
            step.origin,
            None if step.action is None else _action(step.action),
            tuple(step.ceiling.tools),
            step.ceiling.impact,
            step.tenant,
            step.deferred,
            step.opened_at,
            step.expires_at,
            step.ref,
            step.influence,
            step.keys_above,
            step.approve_by,
            [(each.name, each.value, each.policy) for each in step.obligations],
            step.label,
        )
    )


def _action(action: Action) -> tuple[object, ...]:
    plan = [(item.at, item.method, item.path, item.query, item.times) for item in action.plan]
    return (
        action.server,
        action.tool,
        action.args,
        action.impact,
        action.schema,
        action.facts,
        plan,
        action.is_self,
    )


def _read_action(row: list[Any]) -> Action:
    plan = tuple(
        PlanItem(at=at, method=method, path=path, query=tuple(query), times=times)
        for at, method, path, query, times in row[6]
    )
    return Action(
        server=row[0],
        tool=row[1],
        args=row[2],
        impact=row[3],
        schema=row[4],
        facts=tuple((name, value) for name, value in row[5]),
        plan=plan,
        is_self=row[7],
    )


def decode_step(row: Row, intent: Intent) -> StepRow:
    """From STEP_COLUMNS and the transaction's intent."""
    seq, id_, txn, parent, state, round_, performer, *times, children, ended, awaits, body = row
    accepted, beat, waiting = times
    step = _read_step(_loads(body), id_, txn, parent, intent)
    life = Life(
        state=state,
        round=round_,
        performer=performer,
        accepted_at=accepted,
        beat_at=beat,
        waiting_at=waiting,
        children=children,
        ended_at=ended,
        awaits=awaits,
    )
    return StepRow(seq=seq, record=StepRecord(step=step, life=life))


def _read_step(body: list[Any], id_: str, txn: str, parent: str | None, intent: Intent) -> Step:
    chain = tuple(
        HopSpec(step=step, initiator=initiator, performer=performer, origin=origin, tool=tool)
        for step, initiator, performer, origin, tool in body[1]
    )
    return Step(
        id=id_,
        txn=txn,
        intent=intent,
        parent=parent,
        ancestors=tuple(body[0]),
        chain=chain,
        initiator=body[2],
        initiator_jkt=body[3],
        performer=body[4],
        origin=body[5],
        action=None if body[6] is None else _read_action(body[6]),
        ceiling=Ceiling(tools=frozenset(body[7]), impact=body[8]),
        tenant=body[9],
        deferred=body[10],
        opened_at=body[11],
        expires_at=body[12],
        ref=body[13],
        influence=body[14],
        keys_above=tuple(body[15]),
        approve_by=body[16] if len(body) > 16 else None,
        obligations=tuple(Obligation(*each) for each in body[17]) if len(body) > 17 else (),
        label=Label(*body[18]) if len(body) > 18 and body[18] is not None else None,
    )


def encode_grant(grant: Grant) -> str:
    """A grant's `body`."""
    return _encode(
        (
            grant.txn,
            grant.kind,
            grant.tenant,
            grant.audience,
            grant.performer,
            grant.jkt,
            grant.request,
            grant.method,
            grant.url,
            grant.is_self,
            grant.issued_at,
            grant.ref,
            grant.claims,
        )
    )


def decode_grant(row: Row) -> GrantRow:
    """From GRANT_COLUMNS."""
    seq, id_, step, line, state, epoch, expires_at, redeemed_by, redeemed_at, body = row
    txn, kind, tenant, audience, performer, jkt, request, method, url, is_self, issued_at, ref, claims = (
        _loads(body)
    )
    grant = Grant(
        id=id_,
        step=step,
        txn=txn,
        kind=kind,
        tenant=tenant,
        audience=audience,
        performer=performer,
        jkt=jkt,
        request=request,
        method=method,
        url=url,
        plan_line=line,
        is_self=is_self,
        issued_at=issued_at,
        expires_at=expires_at,
        epoch=epoch,
        ref=ref,
        claims=claims,
    )
    record = GrantRecord(grant=grant, state=state, redeemed_by=redeemed_by, redeemed_at=redeemed_at)
    return GrantRow(seq=seq, record=record)


def encode_mark(mark: Mark) -> str:
    """A mark as an operation's answer."""
    return _encode((mark.target, mark.verb, mark.reason, mark.by, mark.at, mark.ref))


def decode_mark(answer: str) -> Mark:
    """What `encode_mark` wrote."""
    return mark_of(_loads(answer))


def mark_of(row: Row) -> Mark:
    """From `target, verb, reason, by, at, ref`."""
    return Mark(target=row[0], verb=row[1], reason=row[2], by=row[3], at=row[4], ref=row[5])


def version_of(row: Row) -> StoredVersion:
    """From the columns of `VERSION_COLUMNS`."""
    return StoredVersion(
        kind=row[0],
        number=row[1],
        digest=row[2],
        source=row[3],
        doc=row[4],
        by=row[5],
        reason=row[6],
        at=row[7],
        ref=row[8],
    )

"""The `ApprovalStore` port on SQLite: reads on the reading connection, writes through the one writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports_approval import (
    Backlog,
    DecideCommand,
    PresentCommand,
    ProposeCommand,
    RefuseCommand,
    SignCommand,
    Sought,
)
from stepwrit_broker.store import approvals, authenticators
from stepwrit_broker.store.ending import end
from stepwrit_broker.store.reading import SELECT_STEP, SELECT_TXN
from stepwrit_broker.store.rows import decode_step, decode_txn
from stepwrit_broker.store.state import State
from stepwrit_broker.store.writer import Writer

_SEALED: Final = "SELECT sealed FROM approvals WHERE id = ?"
_SOUGHT: Final = (
    f"SELECT {approvals.COLUMNS} FROM approvals"  # noqa: S608  a constant
    " WHERE (? IS NULL OR tenant = ?) AND (? IS NULL OR state = ?) AND (? IS NULL OR requester = ?)"
    " AND (? IS NULL OR txn = ?) AND (? IS NULL OR tool = ?) AND (? IS NULL OR initiator = ?)"
    " ORDER BY seq DESC LIMIT ?"
)
_WAITING: Final = "SELECT count(*), min(seq) FROM approvals WHERE state = 'asked'"
_BY_SEQ: Final = f"SELECT {approvals.COLUMNS} FROM approvals WHERE seq = ?"  # noqa: S608  a constant


class SqliteApprovals:
    """See the port for every promise."""

    def __init__(self, state: State, writer: Writer, reader: sqlite3.Connection) -> None:
        self._state, self._writer, self._reader = state, writer, reader

    async def approval(self, approval: str) -> ApprovalRecord | None:
        """By its id."""
        return self._record(self._reader.execute(approvals.BY_ID, (approval,)).fetchone())

    async def approval_of(self, step: str) -> ApprovalRecord | None:
        """By its step."""
        return self._record(self._reader.execute(approvals.BY_STEP, (step,)).fetchone())

    async def approvals(self, sought: Sought) -> Sequence[ApprovalRecord]:
        """Newest first."""
        asked = (
            sought.tenant, sought.state, sought.requester, sought.txn, sought.tool, sought.initiator,
        )  # fmt: skip
        doubled = [value for each in asked for value in (each, each)]
        rows = self._reader.execute(_SOUGHT, (*doubled, sought.most)).fetchall()
        return [record for row in rows if (record := self._record(row)) is not None]

    async def backlog(self) -> Backlog:
        """How many wait, and since when."""
        count, first = self._reader.execute(_WAITING).fetchone()
        record = None if first is None else self._record(self._reader.execute(_BY_SEQ, (first,)).fetchone())
        return Backlog(waiting=count, since=None if record is None else float(record.asked.asked_at))

    async def sealed_text(self, approval: str) -> bytes | None:
        """What persons are to read, sealed."""
        row = self._reader.execute(_SEALED, (approval,)).fetchone()
        return None if row is None else row[0]

    async def sign(self, command: SignCommand) -> ApprovalRecord:
        """Add one signature."""
        return await self._writer.submit(lambda: approvals.sign(self._state, command))

    async def refuse(self, command: RefuseCommand) -> ApprovalRecord:
        """Deny or cancel it; its step ends in the same write."""
        return await self._writer.submit(lambda: self._refuse(command), vital=True)

    def _refuse(self, command: RefuseCommand) -> ApprovalRecord:
        record, row, txn = approvals.refuse(self._state, command)
        facts: dict[str, object] = {"approval": record.asked.id, "reason": f"approval {record.state}"}
        now = self._state.at(command.now)
        end(self._state, row, txn, "cancelled", now, ref=command.ref, facts=facts)
        return record

    async def propose(self, command: ProposeCommand) -> Authenticator:
        """A new authenticator."""
        return await self._writer.submit(lambda: authenticators.propose(self._state, command))

    async def decide(self, command: DecideCommand) -> Authenticator:
        """Approve or retire one."""
        return await self._writer.submit(lambda: authenticators.decide(self._state, command), vital=True)

    async def present(self, command: PresentCommand) -> None:
        """A person signs in."""
        await self._writer.submit(lambda: authenticators.present(self._state, command))

    async def authenticator(self, name: str) -> Authenticator | None:
        """By its id or a passkey's credential id."""
        row = self._reader.execute(authenticators.BY_NAME, (name, name)).fetchone()
        return None if row is None else authenticators.decode(row)

    async def authenticators(self, owner: Identity | None) -> Sequence[Authenticator]:
        """Oldest first."""
        asked = () if owner is None else (owner.issuer, owner.subject)
        rows = self._reader.execute(
            authenticators.ALL if owner is None else authenticators.OF_OWNER, asked
        ).fetchall()
        return [authenticators.decode(row) for row in rows]

    def _record(self, row: tuple[Any, ...] | None) -> ApprovalRecord | None:
        step = None if row is None else self._step(row[1])
        if row is None or step is None:
            return None
        signed = self._reader.execute(approvals.SIGNATURES, (row[0],)).fetchall()
        return approvals.decode(row, signed, step.step)

    def _step(self, name: str) -> StepRecord | None:
        row = self._reader.execute(SELECT_STEP, (name,)).fetchone()
        txn = None if row is None else self._reader.execute(SELECT_TXN, (row[2],)).fetchone()
        return None if row is None or txn is None else decode_step(row, decode_txn(txn, b"").intent).record

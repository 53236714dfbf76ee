"""The `ApprovalStore` port in a fleet: approvals are rows of their transactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.persons import Identity
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
from stepwrit_broker.store.fleet.carrying import Carrier, Job
from stepwrit_broker.store.fleet.scratch import Scratch
from stepwrit_broker.store.fleet.seams import Truth
from stepwrit_broker.store.fleet.tables import AUTHENTICATORS


class FleetApprovals:
    """See the port for every promise."""

    def __init__(self, scratch: Scratch, truth: Truth, carrier: Carrier) -> None:
        self._state, self._truth, self._carrier = scratch.state, truth, carrier

    async def approval(self, approval: str) -> ApprovalRecord | None:
        """By its id."""
        if await self._look(f"approvals:{approval}") is None:
            return None
        return self._record(self._one(approvals.BY_ID, approval))

    async def approval_of(self, step: str) -> ApprovalRecord | None:
        """By its step."""
        if await self._look(f"steps:{step}") is None:
            return None
        return self._record(self._one(approvals.BY_STEP, step))

    async def approvals(self, sought: Sought) -> Sequence[ApprovalRecord]:
        """Newest first."""
        found = [await self.approval(name) for name in await self._truth.sought(sought)]
        return [record for record in found if record is not None]

    async def backlog(self) -> Backlog:
        """How many wait, and since when."""
        count, first = await self._truth.waiting()
        record = None if first is None else await self.approval(first)
        return Backlog(waiting=count, since=None if record is None else float(record.asked.asked_at))

    async def sealed_text(self, approval: str) -> bytes | None:
        """What persons are to read, sealed."""
        if await self._look(f"approvals:{approval}") is None:
            return None
        row = self._one("SELECT sealed FROM approvals WHERE id = ?", approval)
        return None if row is None else row[0]

    async def sign(self, command: SignCommand) -> ApprovalRecord:
        """Add one signature."""
        job = Job(await self._txn(command.approval), beside=(AUTHENTICATORS,))
        return (await self._carrier.run(job, lambda: approvals.sign(self._state, command))).answer

    async def refuse(self, command: RefuseCommand) -> ApprovalRecord:
        """Deny or cancel it; its step ends in the same write."""
        job = Job(await self._txn(command.approval), beside=(AUTHENTICATORS,))
        return (await self._carrier.run(job, lambda: self._refuse(command))).answer

    def _refuse(self, command: RefuseCommand) -> ApprovalRecord:
        record, row, txn = approvals.refuse(self._state, command)
        facts: dict[str, object] = {"approval": record.asked.id, "reason": f"approval {record.state}"}
        end(self._state, row, txn, "cancelled", self._state.at(command.now), ref=command.ref, facts=facts)
        return record

    async def propose(self, command: ProposeCommand) -> Authenticator:
        """A new authenticator."""
        job = Job(AUTHENTICATORS)
        return (await self._carrier.run(job, lambda: authenticators.propose(self._state, command))).answer

    async def decide(self, command: DecideCommand) -> Authenticator:
        """Approve or retire one."""
        job = Job(AUTHENTICATORS)
        return (await self._carrier.run(job, lambda: authenticators.decide(self._state, command))).answer

    async def present(self, command: PresentCommand) -> None:
        """A person signs in."""
        await self._carrier.run(Job(AUTHENTICATORS), lambda: authenticators.present(self._state, command))

    async def authenticator(self, name: str) -> Authenticator | None:
        """By its id or a passkey's credential id."""
        await self._carrier.look(AUTHENTICATORS)
        row = self._state.conn.execute(authenticators.BY_NAME, (name, name)).fetchone()
        return None if row is None else authenticators.decode(row)

    async def authenticators(self, owner: Identity | None) -> Sequence[Authenticator]:
        """Oldest first."""
        await self._carrier.look(AUTHENTICATORS)
        asked = () if owner is None else (owner.issuer, owner.subject)
        statement = authenticators.ALL if owner is None else authenticators.OF_OWNER
        return [authenticators.decode(row) for row in self._state.conn.execute(statement, asked).fetchall()]

    async def _look(self, field: str) -> str | None:
        txn = await self._truth.whose(field)
        if txn is not None:
            await self._carrier.look(AUTHENTICATORS)
            await self._carrier.look(txn)
        return txn

    async def _txn(self, approval: str) -> str:
        txn = await self._truth.whose(f"approvals:{approval}")
        if txn is None:
            raise Refused("not_found", "no such approval")
        return txn

    def _one(self, statement: str, key: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._state.conn.execute(statement, (key,)).fetchone()
        return row

    def _record(self, row: tuple[Any, ...] | None) -> ApprovalRecord | None:
        return None if row is None else approvals.find(self._state, row[1])

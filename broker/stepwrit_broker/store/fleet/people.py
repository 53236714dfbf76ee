"""The `ApprovalStore` port in a fleet: approvals are rows of their transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

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

T = TypeVar("T")
_SEALED: Final = "SELECT sealed FROM approvals WHERE id = ?"


class FleetApprovals:
    """See the port for every promise."""

    def __init__(self, scratch: Scratch, truth: Truth, carrier: Carrier) -> None:
        self._state, self._truth, self._carrier = scratch.state, truth, carrier

    async def approval(self, approval: str) -> ApprovalRecord | None:
        """By its id."""
        return await self._look(f"approvals:{approval}", lambda: self._record(approvals.BY_ID, approval))

    async def approval_of(self, step: str) -> ApprovalRecord | None:
        """By its step."""
        return await self._look(f"steps:{step}", lambda: self._record(approvals.BY_STEP, step))

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
        row = await self._look(f"approvals:{approval}", lambda: self._one(_SEALED, approval))
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
        found = await self._authenticators(authenticators.BY_NAME, (name, name))
        return found[0] if found else None

    async def authenticators(self, owner: Identity | None) -> Sequence[Authenticator]:
        """Oldest first."""
        asked = () if owner is None else (owner.issuer, owner.subject)
        statement = authenticators.ALL if owner is None else authenticators.OF_OWNER
        return await self._authenticators(statement, asked)

    async def _authenticators(self, statement: str, asked: tuple[str, ...]) -> list[Authenticator]:
        rows = await self._carrier.read(
            (AUTHENTICATORS,), lambda: self._state.conn.execute(statement, asked).fetchall()
        )
        return [authenticators.decode(row) for row in rows]

    async def _look(self, field: str, find: Callable[[], T | None]) -> T | None:
        """An approval is read with the authenticators: a signature by one that was retired counts no more."""
        txn = await self._truth.whose(field)
        return None if txn is None else await self._carrier.read((AUTHENTICATORS, txn), find)

    async def _txn(self, approval: str) -> str:
        txn = await self._truth.whose(f"approvals:{approval}")
        if txn is None:
            raise Refused("not_found", "no such approval")
        return txn

    def _one(self, statement: str, key: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._state.conn.execute(statement, (key,)).fetchone()
        return row

    def _record(self, statement: str, key: str) -> ApprovalRecord | None:
        row = self._one(statement, key)
        return None if row is None else approvals.find(self._state, row[1])

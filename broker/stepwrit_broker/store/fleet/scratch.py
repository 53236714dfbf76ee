"""A broker's copy of some transactions, and what a verb makes of one.

A plan is what a verb did to the copy: rows, entries, proofs, and what it wants beyond. The copy keeps it at
once. Whoever finds that the plan does not stand forgets the transaction, and the copy is made anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.store.fleet.sealed import Seal, rows_digest
from stepwrit_broker.store.fleet.seams import Change, Kept, OpDone, Row, Said, Snapshot, Used, Work
from stepwrit_broker.store.fleet.state import FleetState, Wanted
from stepwrit_broker.store.fleet.tables import AUTHENTICATORS, encoded
from stepwrit_broker.store.rows import mark_of, version_of

T = TypeVar("T")
HELD_MAX: Final = 2048  # transactions
_ORD_BITS: Final = 20
_WIDE: Final = {"authenticators": AUTHENTICATORS}


@dataclass(slots=True)
class Held:
    """One aggregate of the copy. seq, work: number and digest of its last write; 0 where it is known to be in
    the truth. fields: its rows, each with the place it was first put at. terms, total: what each adds to
    their sum (`Seal.term`), and that.
    """

    name: str
    version: int = 0
    seq: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    terms: dict[str, int] = field(default_factory=dict)
    total: int = 0
    work: bytes = b""

    def put(self, name: str, order: int, term: int) -> None:
        """A row as it is now."""
        self.fields[name] = order
        self.total ^= self.terms.get(name, 0) ^ term
        self.terms[name] = term

    def drop(self, name: str) -> None:
        """A row goes."""
        self.fields.pop(name, None)
        self.total ^= self.terms.pop(name, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[T]):
    """What a verb answered and did. changes: in the order of their first row."""

    answer: T
    changes: tuple[Change, ...]
    said: tuple[Said, ...]
    kept: tuple[Kept, ...]
    salts: tuple[tuple[str, bytes], ...]
    erased: tuple[str, ...]
    marks: tuple[Mark, ...]
    lifted: tuple[str, ...]
    version: StoredVersion | None
    op: OpDone | None
    uses: tuple[str, ...]
    ended: tuple[tuple[str, str, str, str], ...]
    wanted: Wanted
    rules: int
    now: float

    @property
    def is_empty(self) -> bool:
        """It only looked."""
        return not (self.changes or self.said or self.wanted.proofs)

    def work(self, *, changes: Iterable[Change], with_all: bool, is_root: bool) -> Work:
        """As the stream carries it. with_all: the part that has everything but other shards' rows."""
        if not with_all:
            return Work(at=self.now, changes=tuple(changes))
        return Work(
            at=self.now,
            changes=tuple(changes),
            entries=self.said,
            salts=self.salts,
            kept=self.kept,
            proofs=tuple(Used(key, each.until) for key, each in self.wanted.proofs.items()),
            ops=(self.op,) if self.op is not None and is_root else (),
            uses=self.uses,
            ended=self.ended,
            erased=self.erased,
        )


class Scratch:
    """The copies that one broker has. Used by one verb at a time; `plan` never waits."""

    def __init__(self, state: FleetState) -> None:
        self.state: Final = state
        self.seal: Seal
        self._held: OrderedDict[str, Held] = OrderedDict()

    def held(self, name: str) -> Held | None:
        """The copy of an aggregate, if there is one."""
        found = self._held.get(name)
        if found is not None:
            self._held.move_to_end(name)
        return found

    def load(self, snapshot: Snapshot) -> Held:
        """Take up all of an aggregate as it stands."""
        self.forget(snapshot.txn)
        rows = sorted(snapshot.rows, key=lambda row: row.ord)
        for row in rows:
            self.state.copy.put(row.field, row.value)
        self.state.copy.touched()
        held = self._held[snapshot.txn] = Held(snapshot.txn, snapshot.version, snapshot.seq)
        held.work = rows_digest(snapshot.seal)
        for row in rows:
            held.put(row.field, row.ord, self.seal.term(snapshot.txn, row))
        return held

    def forget(self, name: str) -> None:
        """Have no copy of it."""
        found, state = self._held.pop(name, None), self.state
        state.txns.discard(name)
        state.pasts.discard(name)
        if found is None:
            return
        for each in found.fields:
            state.copy.drop(each)
            table, _, key = each.partition(":")
            if table == "steps":
                state.steps.discard(key)
            elif table == "grants":
                state.grants.discard(key)
        state.copy.touched()

    def clear(self) -> None:
        """Have no copies at all: another epoch has begun."""
        for name in list(self._held):
            self.forget(name)

    def crowded(self) -> list[str]:
        """Names of copies beyond the bound, the longest unused first."""
        return list(self._held)[: max(0, len(self._held) - HELD_MAX)]

    def total(self, name: str) -> int:
        """The sum of an aggregate's rows."""
        found = self._held.get(name)
        return 0 if found is None else found.total

    def committed(self, change: Change, seq: int, work: bytes) -> None:
        """The plan stands: this is the version, and the number and digest of its last write."""
        found = self._held.get(change.txn)
        if found is not None:
            found.version, found.seq, found.work = change.version + 1, seq, work

    def plan(self, main: str, run: Callable[[], T]) -> Plan[T]:
        """Run a verb; what it raises has changed nothing. Rows of no other aggregate's are `main`'s."""
        state = self.state
        state.wanted = Wanted()
        state.conn.execute("BEGIN")
        try:
            answer = run()
            plan = self._read_off(main, answer)
        except BaseException:
            state.conn.execute("ROLLBACK")
            state.journal.rewind(0)
            state.gathered.clear()
            raise
        state.conn.execute("COMMIT")
        state.settle()
        state.ended = {}
        state.gathered.clear()
        self._keep(plan)
        return plan

    def _read_off(self, main: str, answer: T) -> Plan[T]:
        seen = _Seen(self, main)
        for table, key in self.state.copy.touched():
            seen.row(table, key)
        state = self.state
        ended = tuple((each.step, each.performer, each.state, each.ref) for each in state.ended.values())
        return Plan(
            answer=answer,
            changes=seen.changes(),
            said=tuple(state.gathered.said),
            kept=tuple(state.gathered.kept),
            salts=tuple(state.gathered.salts),
            erased=tuple(state.gathered.erased),
            marks=tuple(seen.marks),
            lifted=tuple(seen.lifted),
            version=seen.version,
            op=seen.op,
            uses=tuple(seen.uses),
            ended=ended,
            wanted=state.wanted,
            rules=state.rules,
            now=state.high,
        )

    def _keep(self, plan: Plan[T]) -> None:
        """The copy's own books: which rows are whose."""
        for change in plan.changes:
            found = self._held.setdefault(change.txn, Held(change.txn))
            for row in change.put:
                found.put(row.field, row.ord, self.seal.term(change.txn, row))
            for gone in change.drop:
                found.drop(gone)


class _Seen:
    """The rows that a verb touched, sorted out."""

    def __init__(self, scratch: Scratch, main: str) -> None:
        self._scratch, self._main = scratch, main
        self._put: dict[str, list[Row]] = {}
        self._drop: dict[str, list[str]] = {}
        self.marks: list[Mark] = []
        self.lifted: list[str] = []
        self.version: StoredVersion | None = None
        self.op: OpDone | None = None
        self.uses: list[str] = []

    def row(self, table: str, key: str) -> None:
        """One row that was touched."""
        copy = self._scratch.state.copy
        found = copy.read(table, key)
        if table in ("marks", "versions"):
            self._wide(table, key, found)
            return
        owner = self._owner(table, key, found)
        name = f"{table}:{key}"
        if found is None:
            if name in self._fields(owner):
                self._drop.setdefault(owner, []).append(name)
            return
        self._note(table, found)
        put = self._put.setdefault(owner, [])
        put.append(Row(name, self._ord(owner, name, len(put)), encoded(found)))

    def changes(self) -> tuple[Change, ...]:
        """Per aggregate, the main one last: what is wider than it has to stand first."""
        names = [*dict.fromkeys([*self._put, *self._drop])]
        names.sort(key=lambda name: name == self._main)
        return tuple(
            Change(
                txn=name,
                version=self._version(name),
                put=tuple(self._put.get(name, ())),
                drop=tuple(self._drop.get(name, ())),
            )
            for name in names
        )

    def _wide(self, table: str, key: str, found: tuple[object, ...] | None) -> None:
        copy = self._scratch.state.copy
        if table == "marks":
            if found is None:
                self.lifted.append(key)
            else:
                self.marks.append(mark_of(found))
        elif found is not None:
            self.version = version_of(found)
        copy.conn.execute("DELETE FROM touched WHERE tbl = ? AND key = ?", (table, key))

    def _owner(self, table: str, key: str, found: tuple[object, ...] | None) -> str:
        if table in ("txns", "salts"):
            return key
        if table in _WIDE:
            return _WIDE[table]
        if table == "steps" and found is not None:
            return str(found[1])
        return self._main

    def _note(self, table: str, found: tuple[Any, ...]) -> None:
        if table == "ops":
            self.op = OpDone(*found)
        elif table == "grants" and found[3] == "redeemed":
            self.uses.append(str(found[0]))

    def _fields(self, owner: str) -> dict[str, int]:
        found = self._scratch.held(owner)
        return {} if found is None else found.fields

    def _version(self, owner: str) -> int:
        found = self._scratch.held(owner)
        return 0 if found is None else found.version

    def _ord(self, owner: str, name: str, at: int) -> int:
        known = self._fields(owner).get(name)
        return (self._version(owner) + 1 << _ORD_BITS) + at if known is None else known

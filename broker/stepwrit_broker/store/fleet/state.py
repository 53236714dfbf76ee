"""The state that the verbs run on in a fleet: a copy of what they look at, and a note of what they want.

What is wider than a transaction is not decided here. It is noted: charges, places, proofs. The store claims
it where all brokers do, before anything is committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.limits import Asked, Charge, outstanding_keys
from stepwrit_broker.core.limits import charge as charged
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.ports import Entropy, MarkCommand
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.fleet.gather import Gathering
from stepwrit_broker.store.fleet.seams import Place, Rules
from stepwrit_broker.store.fleet.tables import Copy, encoded
from stepwrit_broker.store.state import State

_VERSION_COLUMNS: Final = ("kind", "number", "digest", "source", "doc", "by", "reason", "at", "ref")
_PUT_VERSION: Final = (
    f"INSERT INTO versions ({', '.join(_VERSION_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
)
NOTHING_ASKED: Final = Asked(of_requester=0, of_initiator=0, denied_at=0.0)


def owing(standing: Mark | None, command: MarkCommand) -> Mark:
    """What stands on this broker while a mark is on its way: it may stop more, never less or otherwise."""
    if standing is None or (
        standing.verb == "freeze" and command.mark.verb == "revoke" and not command.yields
    ):
        return command.mark
    return standing


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that the verb uses up. until: seconds since the epoch."""

    kind: str
    until: float


@dataclass(slots=True)
class Wanted:
    """What one run of a verb wants beyond its transaction."""

    proofs: dict[bytes, Proof] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    freed: list[Place] = field(default_factory=list)


class FleetState(State):
    """See `State`. `wanted` is what the verb that ran last wants."""

    def __init__(self, entropy: Entropy) -> None:
        self.gathered: Final = Gathering()
        self.copy: Final = Copy(self.gathered.schema)
        room = Disk(Path("/nonexistent"), reserve=0, ballast=0)
        super().__init__(self.copy.conn, self.gathered, entropy, room)
        self.wanted = Wanted()
        self.rules = 0
        self._known = Rules(number=0, marks={}, versions={})
        self.asking = NOTHING_ASKED
        self._places: dict[str, int] = {}

    def adopt(self, rules: Rules) -> None:
        """The marks and versions that are in force from now on."""
        if rules.number < self.rules:
            return
        self.rules, self._known = rules.number, rules
        fresh = dict(rules.marks)
        for target, owed in self.owed.items():
            fresh[target] = owing(fresh.get(target), owed)
        self.marks.update(fresh)  # first add, then take away: no moment without a mark that stands
        for target in self.marks.keys() - fresh.keys():
            del self.marks[target]
        self.versions = dict(rules.versions)

    def readopt(self) -> None:
        """As before a verb ran: what it set or lifted is in force once the truth has it, and maybe never."""
        self.adopt(self._known)

    def show(self, targets: Iterable[str]) -> None:
        """The copy's rows of these marks, and of the versions in force, are as the truth has them, whichever
        broker set or lifted them, and whatever came to nothing here.
        """
        self.conn.execute("DELETE FROM versions")
        for each in self._known.versions.values():
            self.conn.execute(_PUT_VERSION, tuple(getattr(each, column) for column in _VERSION_COLUMNS))
        for target in targets:
            field, mark = f"marks:{target}", self._known.marks.get(target)
            self.copy.drop(field)
            if mark is not None:
                row = (mark.target, mark.verb, mark.reason, mark.by, mark.at, mark.ref, 0)
                self.copy.put(field, encoded(row))
        self.copy.touched()

    def charge(self, what: Charge, now: float) -> None:
        """Note it; that there are limits at all is checked here. Raises Refused(`limit`), Unavailable."""
        charged(self.limits(), what, {}, now)
        self.wanted.charges.append(what)

    def spend(self, key: bytes, kind: str, until: float) -> bool:
        """Note it; False where this very operation shows it twice."""
        if key in self.wanted.proofs:
            return False
        self.wanted.proofs[key] = Proof(kind, until)
        return True

    def place(self, what: Charge) -> tuple[str, ...]:
        """The places that it needs, noted by `hold`."""
        in_force = self.limits()
        keys = outstanding_keys(in_force, what, {})
        by_name = {limit.name: limit.most for limit in in_force.concurrency}
        self._places = {key: by_name[key.partition("\x1f")[0]] for key in keys}
        return keys

    def hold(self, grant: str, keys: tuple[str, ...], expires_at: float) -> None:
        """Note the places, and keep their names with the grant: whoever ends it gives them back."""
        if not keys:
            return
        self.wanted.places += [Place(key, grant, self._places[key], expires_at) for key in keys]
        row = (grant, msgspec.json.encode(keys).decode())
        self.conn.execute("INSERT INTO places (grant_id, keys) VALUES (?, ?)", row)

    def release(self, grant: str) -> None:
        """Note that its places are free."""
        row: tuple[str] | None
        row = self.conn.execute("SELECT keys FROM places WHERE grant_id = ?", (grant,)).fetchone()
        if row is not None:
            keys = msgspec.json.decode(row[0], type=list[str])
            self.wanted.freed += [Place(key, grant, 0, 0.0) for key in keys]
            self.conn.execute("DELETE FROM places WHERE grant_id = ?", (grant,))

    def asked(self, who: str, tenant: str, initiator: str, tool: str, since: float) -> Asked:  # noqa: ARG002
        """What the truth said before this verb began."""
        return self.asking

    def save_time(self, *, at_once: bool = False) -> None:
        """The time is kept where the rows are."""

    def load(self) -> None:
        """There is no file."""

    def begin_epoch(self) -> None:
        """Epochs are begun for the whole fleet."""
        raise Unavailable("unavailable", "a fleet's epoch is not one broker's to begin", rule="store")

    def settle(self) -> None:
        """What ended is told once it is durable, not here."""
        told, self.ended = self.ended, {}
        super().settle()
        self.ended = told

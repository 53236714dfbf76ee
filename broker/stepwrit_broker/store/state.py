"""What every verb works with: the connection, the log and the mirrors in memory.

The process has the file to itself, so marks, versions, rate counters and outstanding credentials are tested
in memory, serially, and are as good as the rows: they are loaded at start and move with each transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.core.influence import Past
from stepwrit_broker.core.limits import Asked, Charge, Limits, outstanding_keys
from stepwrit_broker.core.limits import charge as charged
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion, VersionKind, Versions
from stepwrit_broker.ports import Entropy, MarkCommand
from stepwrit_broker.ports_ended import Ended, Tell
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.log import EmbeddedLog
from stepwrit_broker.store.memory import Journal, Shelf
from stepwrit_broker.store.rows import GrantRow, StepRow, Txn, mark_of, version_of

STEPS_HELD: Final = 8192
GRANTS_HELD: Final = 8192
TXNS_HELD: Final = 4096
PASTS_HELD: Final = 1024
SAVE_TIME_S: Final = 1.0  # how far the stored high-water time may lag behind
EPOCH_BYTES: Final = 16
VERSION_COLUMNS: Final = "kind, number, digest, source, doc, by, reason, at, ref"
_IN_FORCE: Final = (
    f"SELECT {VERSION_COLUMNS} FROM versions AS v"  # noqa: S608  a constant
    " WHERE number = (SELECT max(number) FROM versions WHERE kind = v.kind)"
)
# what ended with its step, and by nobody's word, was asked in vain: its place is free after a while only
WAITING: Final = (
    "SELECT count(*), coalesce(sum(initiator = ?), 0) FROM approvals WHERE requester = ? AND tenant = ?"
    " AND (state = 'asked' OR (state IN ('cancelled', 'expired') AND by = '' AND ended_at > ?))"
)
DENIED: Final = (
    "SELECT coalesce(max(ended_at), 0) FROM approvals"
    " WHERE requester = ? AND tenant = ? AND state = 'denied' AND initiator = ? AND tool = ?"
)
_PROOF_PUT: Final = "INSERT OR IGNORE INTO proofs (key, until) VALUES (?, ?)"
_SAVE: Final = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"


@dataclass(frozen=True, slots=True)
class Held:
    """One outstanding credential: the counters it holds, and its end in seconds since the epoch."""

    keys: tuple[str, ...]
    expires_at: float


def stronger(standing: Mark | None, wanted: Mark) -> Mark:
    """Which of two marks on one target stands: a revocation is never weakened to a freeze."""
    return standing if standing is not None and standing.verb == "revoke" else wanted


class State:
    """One store's connection, log and mirrors. Used by one operation at a time."""

    def __init__(self, conn: sqlite3.Connection, log: EmbeddedLog, entropy: Entropy, disk: Disk) -> None:
        self.conn = conn
        self.log = log
        self.entropy = entropy
        self.disk = disk
        self.epoch = entropy.bytes(EPOCH_BYTES).hex()
        self.journal = Journal()
        self.steps: Shelf[StepRow] = Shelf(self.journal, STEPS_HELD)
        self.grants: Shelf[GrantRow] = Shelf(self.journal, GRANTS_HELD)
        self.txns: Shelf[Txn] = Shelf(self.journal, TXNS_HELD)
        self.pasts: Shelf[Past] = Shelf(self.journal, PASTS_HELD)
        self.marks: dict[str, Mark] = {}
        self.owed: dict[str, MarkCommand] = {}  # in force here, not yet durable
        self.versions: dict[VersionKind, StoredVersion] = {}
        self.tats: dict[str, float] = {}
        self.live: dict[str, int] = {}
        self.held: dict[str, Held] = {}
        self.ended: dict[str, Ended] = {}  # by this batch, under those who run them
        self.tell: Tell = lambda _: None
        self.high = 0.0
        self.ledger_bytes = 0
        self._saved_high = 0.0
        self._limits: dict[int, Limits] = {}
        self._bundles: Callable[[], int] = int

    def load(self) -> None:
        """Take up what the file has; at start, and whenever a commit failed."""
        meta: dict[str, float] = dict(
            self.conn.execute("SELECT name, value FROM meta WHERE name IN ('high', 'ledger_bytes')")
        )
        self._saved_high = float(meta.get("high", 0.0))
        self.high = max(self.high, self._saved_high)
        self.ledger_bytes = max(self.ledger_bytes, int(meta.get("ledger_bytes", 0)))
        rows = self.conn.execute("SELECT target, verb, reason, by, at, ref FROM marks").fetchall()
        fresh = {row[0]: mark_of(row) for row in rows}
        for target, owed in self.owed.items():
            fresh[target] = stronger(fresh.get(target), owed.mark)
        self.marks.update(fresh)  # first add, then take away: no moment without a mark that stands
        for target in self.marks.keys() - fresh.keys():
            del self.marks[target]
        self.versions = {row[0]: version_of(row) for row in self.conn.execute(_IN_FORCE).fetchall()}

    def begin_epoch(self) -> None:
        """Write the new epoch; everything reserved or issued in an older one is to end at the next sweep."""
        self.conn.execute(_SAVE, ("epoch", self.epoch))
        rows = self.conn.execute("SELECT id FROM grants WHERE state IN ('reserved', 'issued')").fetchall()
        self.held = {row[0]: Held((), 0.0) for row in rows}

    def at(self, now: float) -> float:
        """The time that this operation goes by: never before the high-water time."""
        self.high = max(self.high, now)
        return self.high

    def save_time(self, *, at_once: bool = False) -> None:
        """Store the high-water time, at most once a second unless told otherwise."""
        lag = self.high - self._saved_high
        if lag >= SAVE_TIME_S or (at_once and lag > 0):
            self.conn.execute(_SAVE, ("high", self.high))
            self.conn.execute(_SAVE, ("ledger_bytes", self.ledger_bytes))
            self._saved_high = self.high

    def settle(self) -> None:
        """The batch is committed."""
        self.journal.clear()
        self.steps.settle()
        self.grants.settle()
        self.txns.settle()
        self.pasts.settle()
        if self.ended:
            told, self.ended = tuple(self.ended.values()), {}
            self.tell(told)

    def abort(self) -> None:
        """The batch is not: put everything back, and read again what the file says."""
        self.journal.rewind(0)
        self.steps.clear()
        self.grants.clear()
        self.txns.clear()
        self.pasts.clear()
        self.load()

    def use(self, in_force: Limits, bundles: Callable[[], int]) -> None:
        """Take the limits of a version in force or about to be, and where to ask the bundles' generation."""
        number = self._number("limits")
        self._limits = {each: kept for each, kept in self._limits.items() if each >= number}
        self._limits[in_force.version] = in_force
        self._bundles = bundles

    def limits(self) -> Limits:
        """The limits in force. Raises Unavailable when they were not handed over."""
        found = self._limits.get(self._number("limits"))
        if found is None:
            raise Unavailable("unavailable", "the limits in force are not loaded", rule="limits")
        return found

    def known_limits(self) -> Limits | None:
        """The limits in force, if they were handed over: the brake and the reaper work without them."""
        return self._limits.get(self._number("limits"))

    def charge(self, what: Charge, now: float) -> None:
        """Spend one cell of every rate limit that speaks of this. Raises Refused(`limit`), Unavailable."""
        for key, tat in charged(self.limits(), what, self.tats, now).items():
            self.journal.set(self.tats, key, tat)

    def spend(self, key: bytes, kind: str, until: float) -> bool:  # noqa: ARG002  a fleet tells of the kind
        """Use a proof up; False when it was used before."""
        return self.conn.execute(_PROOF_PUT, (key, until)).rowcount == 1

    def place(self, what: Charge) -> tuple[str, ...]:
        """The counters of outstanding credentials that one more raises. Raises Refused(`limit`)."""
        return outstanding_keys(self.limits(), what, self.live)

    def hold(self, grant: str, keys: tuple[str, ...], expires_at: float) -> None:
        """One more outstanding credential, in these places."""
        for key in keys:
            self.journal.set(self.live, key, self.live.get(key, 0) + 1)
        self.journal.set(self.held, grant, Held(keys, expires_at))

    def release(self, grant: str) -> None:
        """One outstanding credential less."""
        held = self.held.get(grant)
        if held is None:
            return
        self.journal.drop(self.held, grant)
        for key in held.keys:
            left = self.live.get(key, 0) - 1
            if left > 0:
                self.journal.set(self.live, key, left)
            else:
                self.journal.drop(self.live, key)

    def asked(self, who: str, tenant: str, initiator: str, tool: str, since: float) -> Asked:
        """What stands against asking this person once more; what ended in vain counts from `since` on."""
        mine, theirs = self.conn.execute(WAITING, (initiator, who, tenant, since)).fetchone()
        denied: float = self.conn.execute(DENIED, (who, tenant, initiator, tool)).fetchone()[0]
        return Asked(of_requester=mine, of_initiator=theirs, denied_at=denied)

    def check_versions(self, wanted: Versions | None) -> None:
        """Raises Conflict(`stale_version`) when a decision was made on others than those in force."""
        if wanted is None:
            return
        own = (self._number("policy"), self._number("registry"), self._number("limits"), self._bundles())
        if own != (wanted.policy, wanted.registry, wanted.limits, wanted.bundles):
            raise Conflict("stale_version", "policy, registry, limits or bundles changed meanwhile")

    def _number(self, kind: VersionKind) -> int:
        version = self.versions.get(kind)
        return 0 if version is None else version.number

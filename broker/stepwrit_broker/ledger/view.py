"""The LedgerView port over whatever keeps the rows; the embedded log's by a connection that cannot write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.merkle import parse_checkpoint
from stepwrit_broker.ledger.documents import proved_of
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.source import Entry, LogSource
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader
from stepwrit_broker.ports import KeptDecision, LoggedEntry


class LogView:
    """Reads committed entries of a source. quorum: cosignatures that make a checkpoint good."""

    def __init__(self, source: LogSource, *, quorum: int = 1) -> None:
        self._quorum: Final = quorum
        self._source: Final = source
        self._reader = LogReader(source)

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def by_ref(self, ref: str, tenant: str | None) -> Sequence[LoggedEntry]:
        """All tenants' when `tenant` is None."""
        rows = self._reader.by_any_ref(ref) if tenant is None else self._reader.by_ref(ref, tenant)
        return [logged(row) for row in rows]

    def of_txn(self, txn: str) -> Sequence[LoggedEntry]:
        """Oldest first."""
        return [logged(row) for row in self._reader.entries_of(txn)]

    def tail(self, after: int, limit: int, kinds: Sequence[str], tenant: str | None) -> Sequence[LoggedEntry]:
        """A page; entries of other tenants are left out."""
        return [logged(row) for row in self._reader.tail(after, limit, kinds, tenant)]

    def decision(self, digest: str) -> Mapping[str, object] | None:
        """None once erased."""
        kept = self._source.document(digest)
        return None if kept is None else cast("Mapping[str, object]", json.loads(kept.doc))

    def proved(self, entry: LoggedEntry) -> KeptDecision:
        """SHA-256(salt ‖ document) is what the entry holds."""
        if entry.facts is None:
            return KeptDecision(proved="sealed")
        digest = entry.facts.get("decision")
        if not isinstance(digest, str):
            return KeptDecision(proved="none")
        kept = self._source.document(digest)
        return proved_of(digest, None if kept is None else (kept.doc, kept.salt))

    def salt(self, txn: str) -> bytes | None:
        """A transaction's salt; None once erased."""
        return self._source.salt(txn)

    def every(self) -> Iterator[LoggedEntry]:
        """All entries, oldest first."""
        page = self._reader.tail(-1)
        while page:
            yield from map(logged, page)
            page = self._reader.tail(page[-1].seq)

    def head(self) -> Mapping[str, object]:
        """Size and root of what is committed, and the newest signed checkpoint."""
        size = self._reader.size
        return {
            "size": size,
            "root": self._reader.root_at(size).hex(),
            "checkpoint": self._reader.newest_checkpoint(),
        }

    def inclusion(self, seq: int) -> Mapping[str, object]:
        """Under the smallest checkpoint that covers it, a cosigned one if there is.

        Raises Refused(`not_found`).
        """
        note = self._reader.cosigned_checkpoint(at_least=seq + 1, quorum=self._quorum)
        note = note or self._reader.checkpoint(at_least=seq + 1)
        if note is None:
            raise Refused("not_found", "no checkpoint covers this entry yet")
        size = parse_checkpoint(note.partition("\n\n")[0] + "\n").size
        proof = self._reader.inclusion(seq, size)
        return {
            "seq": seq,
            "size": size,
            "leaf": proof.leaf.hex(),
            "path": [each.hex() for each in proof.path],
            "root": proof.root.hex(),
            "checkpoint": note,
        }

    def body(self, seq: int) -> bytes | None:
        """None once it is in an export only, and for a number that is none."""
        entry = self._reader.entry(seq)
        return None if entry is None else entry.body


class SqliteLedgerView(LogView):
    """That of the database at `path`."""

    def __init__(self, path: Path, *, quorum: int = 1) -> None:
        super().__init__(SqliteSource(open_reader(path)), quorum=quorum)


def logged(entry: Entry) -> LoggedEntry:
    """The entry with its body read."""
    facts = None if entry.body is None else cast("Mapping[str, object]", json.loads(entry.body))
    return LoggedEntry(
        seq=entry.seq,
        at=entry.at,
        kind=entry.kind,
        txn=entry.txn,
        ref=entry.ref,
        tenant=entry.tenant,
        facts=facts,
    )

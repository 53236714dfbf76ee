"""Verifying a log offline: a database file or an export, a public key, and what else there is.

Nothing here trusts the file: it is opened read-only, every leaf is hashed again from its body, and only
checkpoints signed by the given key count. What was cut off together with its checkpoints cannot be seen
from inside; an anchor (or a witness) shows it, and without one the report says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.merkle import Checkpoint, Frontier
from stepwrit_broker.ledger.anchor import Anchor
from stepwrit_broker.ledger.elsewhere import NOWHERE, Elsewhere, followed
from stepwrit_broker.ledger.exported import Seen, open_by_key, verify_export
from stepwrit_broker.ledger.notes import NoteVerifier, parse_vkey
from stepwrit_broker.ledger.proofs import check_origin, enough
from stepwrit_broker.ledger.report import Finding, Report, Span, cannot_exclude, subtract
from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader
from stepwrit_broker.ledger.walk import Walk

_TABLES: Final = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('entries', 'nodes', 'checkpoints', 'log_meta')"  # fmt: skip  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    checkpoint: Checkpoint
    at: float


def verify(path: Path, vkey: str, *, exports: Sequence[Path] = (), anchor: Anchor | None = None) -> Report:
    """Verify a database or, when the file is one, an export. Raises: NoteRefused for a vkey that is none."""
    with path.open("rb") as file:
        database = file.read(16) == b"SQLite format 3\x00"
    if database:
        return verify_database(path, vkey, exports=exports, anchor=anchor)
    return verify_export_file(path, vkey, anchor=anchor)


def verify_export_file(path: Path, vkey: str, *, anchor: Anchor | None = None) -> Report:
    """Verify an export by itself. `not_checked` is what came before its range."""
    seen = verify_export(path, parse_vkey(vkey))
    size = seen.checkpoint.size if seen.checkpoint and not seen.findings else 0
    findings = list(seen.findings)
    if anchor is not None and anchor.size == seen.span.upto and anchor.root != seen.root:
        findings.append(Finding(kind="root_mismatch", seq=None, detail="the anchor has another root"))
    return Report(
        origin=seen.checkpoint.origin if seen.checkpoint else "",
        size=seen.span.upto,
        root=seen.root,
        signed_size=size,
        signed_at=None,
        findings=tuple(findings),
        renamed=seen.renamed,
        not_checked=(Span(0, seen.span.first),) if seen.span.first else (),
        cannot_exclude=cannot_exclude(seen.span.upto, None),
    )


def verify_database(
    path: Path,
    vkey: str,
    *,
    exports: Sequence[Path] = (),
    anchor: Anchor | None = None,
    elsewhere: Elsewhere = NOWHERE,
) -> Report:
    """Verify a database file, together with the exports that hold its older bodies.

    Raises: NoteRefused for a vkey that is none; everything about the file is a finding.
    """
    return verify_log(
        lambda: _source(path), path.name, vkey, exports=exports, anchor=anchor, elsewhere=elsewhere
    )


def verify_log(
    opened: Callable[[], LogSource],
    name: str,
    vkey: str,
    *,
    exports: Sequence[Path] = (),
    anchor: Anchor | None = None,
    elsewhere: Elsewhere = NOWHERE,
) -> Report:
    """Verify what a source holds at one moment, as `verify_database` does. name: what findings call it."""
    verifier = parse_vkey(vkey)
    given = [verify_export(export, verifier) for export in exports]
    try:
        with closing(opened()) as source, source.still() as still:
            return _Verification(still, verifier, given, anchor, elsewhere).report()
    except (sqlite3.Error, Problem, TypeError, ValueError) as error:
        detail = error.reason if isinstance(error, Problem) else str(error)
        finding = Finding(kind="unreadable", seq=None, detail=f"{name}: {detail}")
        return Report(
            origin=verifier.name, size=0, root=b"", signed_size=0, signed_at=None, findings=(finding,)
        )


def _source(path: Path) -> LogSource:
    conn = _open(path)
    try:
        if conn.execute(_TABLES).fetchone()[0] != 4:
            raise ValueError("the log's tables are not here")
    except BaseException:
        conn.close()
        raise
    return SqliteSource(conn)


def _open(path: Path) -> sqlite3.Connection:
    """Immutable, unless committed entries still wait in a write-ahead log beside the file."""
    wal = path.with_name(path.name + "-wal")
    return open_reader(path, immutable=not (wal.exists() and wal.stat().st_size))


class _Verification:
    """One verification of one source that stands still."""

    def __init__(
        self,
        source: LogSource,
        verifier: NoteVerifier,
        exports: Sequence[Seen],
        anchor: Anchor | None,
        elsewhere: Elsewhere,
    ) -> None:
        self._source = source
        self._verifier = verifier
        self._exports = exports
        self._anchor = anchor
        self._elsewhere = elsewhere
        self._kept = [self._opened(note) for note in elsewhere.checkpoints]
        self._forged: list[str] = []
        self._signed = list(self._checkpoints())
        self._walk = Walk(
            Frontier(), self._stops(), {(level, index): node for level, index, node in source.nodes()}
        )

    def report(self) -> Report:
        """Walk once, then compare with everything that was signed, anchored or exported."""
        walk = self._walk
        for entry in self._source.every():
            walk.step(entry)
        for level, index in walk.node_keys():
            walk.find("node_changed", index << level, f"subtree ({level}, {index}) has no such leaves")
        if self._source.size() != walk.expected:
            walk.find("gap", walk.expected, f"the head says {self._source.size()} entries")
        newest = self._compare_checkpoints()
        self._compare_anchor()
        self._compare_exports()
        for kept in self._kept:
            self._compare(kept.size, kept.root, "the checkpoint kept elsewhere")
        cosigned = followed(self._source, self._verifier, self._elsewhere, walk.find)
        only, unchecked = self._bodies(newest.checkpoint.size if newest else 0)
        origin = newest.checkpoint.origin if newest else self._source.meta("origin")
        return Report(
            origin=origin or self._verifier.name,
            size=walk.expected,
            root=walk.frontier.root,
            signed_size=newest.checkpoint.size if newest else 0,
            signed_at=newest.at if newest else None,
            findings=tuple(walk.findings),
            renamed=tuple(walk.renamed),
            only_in_exports=tuple(only),
            not_checked=tuple(unchecked),
            cannot_exclude=self._left_open(newest),
            cosigned=cosigned,
        )

    def _checkpoints(self) -> Iterator[_Signed]:
        for note, at in self._source.checkpoints():
            try:
                yield _Signed(checkpoint=open_by_key(note, self._verifier), at=at)
            except Problem as error:
                self._forged.append(error.reason)

    def _opened(self, note: str) -> Checkpoint:
        """A checkpoint kept elsewhere. Raises NoteRefused for one that shows nothing."""
        checkpoint = open_by_key(note, self._verifier)
        check_origin(checkpoint, self._verifier)
        enough(note, self._elsewhere.witnesses, self._elsewhere.needed)
        return checkpoint

    def _stops(self) -> set[int]:
        stops = {signed.checkpoint.size for signed in self._signed}
        stops |= {seen.span.upto for seen in self._exports}
        stops |= {kept.size for kept in self._kept}
        return stops | ({self._anchor.size} if self._anchor else set())

    def _compare_checkpoints(self) -> _Signed | None:
        """The newest checkpoint that holds; a finding for every one that does not."""
        for reason in self._forged:
            self._walk.find("checkpoint_forged", None, reason)
        newest = None
        for signed in self._signed:
            if self._compare(signed.checkpoint.size, signed.checkpoint.root, "a signed checkpoint"):
                newest = signed
        if newest is not None:
            self._check_origin(newest.checkpoint.origin)
        elif not self._signed and self._walk.expected:
            self._walk.find("no_checkpoint", None, "no entry here was ever signed")
        return newest

    def _compare_anchor(self) -> None:
        anchor = self._anchor
        if anchor is None:
            return
        self._compare(anchor.size, anchor.root, "the anchor")
        try:
            noted = open_by_key(anchor.note, self._verifier) if anchor.note is not None else None
        except Problem as error:
            self._walk.find("checkpoint_forged", None, f"the anchor's checkpoint: {error.reason}")
            return
        if noted is not None and (noted.size, noted.root) != (anchor.size, anchor.root):
            self._walk.find("root_mismatch", None, "the anchor's checkpoint is not its own size and root")

    def _compare_exports(self) -> None:
        for seen in self._exports:
            self._walk.findings.extend(seen.findings)
            if not seen.findings:
                self._compare(seen.span.upto, seen.root, f"the export {seen.path.name}")

    def _compare(self, size: int, root: bytes, what: str) -> bool:
        """Whether the entries make this root at this size; a finding when they do not."""
        if size > self._walk.expected:
            lost = f"{what} has {size} entries, here are {self._walk.expected}"
            self._walk.find("truncated", self._walk.expected, lost)
            return False
        if self._walk.roots.get(size) != root:
            self._walk.find("root_mismatch", None, f"{what} of size {size} has another root")
            return False
        return True

    def _check_origin(self, origin: str) -> None:
        """The key's own name, or one that an adoption gave the log."""
        renamed = [*self._walk.renamed, *(r for seen in self._exports for r in seen.renamed)]
        linked = {self._verifier.name} | {r.new_origin for r in renamed}
        if origin not in linked:
            self._walk.find("checkpoint_origin", None, f"signed for {origin}, which no adoption leads to")

    def _bodies(self, signed_size: int) -> tuple[list[Span], list[Span]]:
        """Bodies checked in exports, and bodies said to be in exports that were not given.

        Only a signed record excuses a missing body: an unsigned one may have been put there to excuse it.
        """
        excused = max((upto for seq, upto in self._walk.exported if seq < signed_size), default=0)
        given = [seen.span for seen in self._exports if not seen.findings]
        only: list[Span] = []
        unchecked: list[Span] = []
        for span in self._walk.without_body:
            outside = subtract(span, given)
            only += subtract(span, outside)
            unchecked += [part for gap in outside for part in subtract(gap, [Span(excused, span.upto)])]
            for lost in (part for gap in outside for part in subtract(gap, [Span(0, excused)])):
                self._walk.find("body_missing", lost.first, f"no bodies up to entry {lost.upto - 1}")
        return only, unchecked

    def _left_open(self, newest: _Signed | None) -> str | None:
        if self._anchor is not None or self._elsewhere.checkpoints or newest is None:
            return None
        return cannot_exclude(newest.checkpoint.size, newest.at)

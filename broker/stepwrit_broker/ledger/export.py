"""Exporting a range of the log to a file that proves itself, and letting exported bodies go.

JSON lines: a header (origin, range, the subtree roots before it), one line per entry, and a closing line
with a signed checkpoint and the consistency proof that ties the range to it. `exported.py` reads it.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from stepwrit_broker.core.entry import encode
from stepwrit_broker.core.errors import Conflict
from stepwrit_broker.core.merkle import Frontier
from stepwrit_broker.durable import new_file, sync_directory
from stepwrit_broker.ledger.checkpoint import open_checkpoint
from stepwrit_broker.ledger.exported import TYPE, verify_export
from stepwrit_broker.ledger.notes import NoteVerifier
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.report import Span
from stepwrit_broker.ledger.schema import in_doubt, set_meta
from stepwrit_broker.ledger.source import Entry, LogSource
from stepwrit_broker.ledger.sqlite_source import SqliteSource

KIND: Final = "log.sealed"
_PAGE: Final = 500
DROPPED: Final = "dropped_below"
_DROP: Final = "UPDATE entries SET body = NULL WHERE seq >= ? AND seq < ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A durable export that was verified after it was written. Only `seal_and_export` makes one."""

    span: Span
    path: Path
    sha256: str
    root: bytes


def export_range(source: LogSource, span: Span, path: Path, verifier: NoteVerifier) -> None:
    """Write the entries of `span` to a new file, durable and whole on return.

    verifier: the checkpoint key under the log's first origin. Raises: Conflict when the file exists, a body
    is gone, or no checkpoint covers the range yet; Unavailable when it cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        with new_file(draft) as file:
            for line in _lines(source, span, verifier):
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        os.link(draft, path)
        sync_directory(path.parent)
    except FileExistsError:
        raise Conflict("wrong_state", "the export or its draft exists already") from None
    except OSError as error:
        raise in_doubt(f"the export cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def seal_and_export(source: LogSource, *, upto: int, path: Path, verifier: NoteVerifier) -> Sealed:
    """Export all bodies below `upto` that are still here, and verify the file as a stranger would.

    The caller then appends `sealed_body` and calls `drop_bodies`, both in one transaction.
    Raises: as `export_range`; Unavailable when the written file does not verify.
    """
    span = Span(dropped_below(source), upto)
    export_range(source, span, path, verifier)
    seen = verify_export(path, verifier)
    root = LogReader(source).root_at(upto)
    if seen.findings or seen.span != span or seen.root != root:
        raise in_doubt("the export does not verify; nothing was dropped")
    return Sealed(span=span, path=path, sha256=_file_digest(path), root=root)


def sealed_body(sealed: Sealed, *, ref: str, at: float) -> bytes:
    """The entry (kind `log.sealed`) that records the export; without it missing bodies are a finding."""
    members = {
        "first": sealed.span.first,
        "upto": sealed.span.upto,
        "root": base64.b64encode(sealed.root).decode(),
        "sha256": sealed.sha256,
    }
    return encode(KIND, ref, at, {"exported": members})


def drop_bodies(conn: sqlite3.Connection, sealed: Sealed) -> int:
    """Let the exported bodies go, in the caller's transaction; hashes stay, so proofs still work.

    How many went. Raises: Conflict when something was dropped since the export.
    """
    if not conn.in_transaction:
        raise in_doubt("bodies are dropped in the transaction that records it")
    if dropped_below(SqliteSource(conn)) != sealed.span.first:
        raise Conflict("wrong_state", "bodies were dropped since this export")
    gone = conn.execute(_DROP, (sealed.span.first, sealed.span.upto)).rowcount
    set_meta(conn, DROPPED, str(sealed.span.upto))
    return gone


def dropped_below(source: LogSource) -> int:
    """Bodies below this number are in exports only."""
    return int(source.meta(DROPPED) or 0)


def first_from(source: LogSource, at: float, size: int) -> int:
    """The first entry that is not older than a time (seconds since the epoch); `size` when all are."""
    first = source.first_from(at)
    return size if first is None else min(first, size)


def _lines(source: LogSource, span: Span, verifier: NoteVerifier) -> Iterator[dict[str, object]]:
    reader, origin = LogReader(source), source.meta("origin") or ""
    note = reader.checkpoint(at_least=span.upto)
    if not 0 <= span.first < span.upto or note is None:
        raise Conflict("wrong_state", "an empty range, or one that no checkpoint covers yet")
    key = verifier.under(origin)
    signed = open_checkpoint(note, key).checkpoint
    before = reader.calculated(lambda get: Frontier.at(span.first, get))
    yield {
        "type": TYPE,
        "v": 1,
        "origin": origin,
        "vkey": key.vkey,
        "first": span.first,
        "upto": span.upto,
        "frontier": _encode(before.peaks),
    }
    yield from _entries(reader, span)
    yield {"checkpoint": note, "consistency": _encode(reader.consistency(span.upto, signed.size))}


def _entries(reader: LogReader, span: Span) -> Iterator[dict[str, object]]:
    at = span.first
    while at < span.upto:
        page = reader.tail(at - 1, min(_PAGE, span.upto - at))
        if not page or page[0].seq != at:
            raise in_doubt(f"entry {at} is missing")
        yield from map(_entry_line, page)
        at = page[-1].seq + 1


def _entry_line(entry: Entry) -> dict[str, object]:
    if entry.body is None:
        raise Conflict("wrong_state", f"the body of entry {entry.seq} is in an earlier export")
    line: dict[str, object] = {"seq": entry.seq, "at": entry.at, "kind": entry.kind}
    line.update(txn=entry.txn, ref=entry.ref, tenant=entry.tenant)
    try:
        line["body"] = entry.body.decode()
    except UnicodeDecodeError:
        line["body64"] = base64.b64encode(entry.body).decode()
    return line


def _encode(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(value).decode() for value in hashes]


def _file_digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Verifying an export file by itself: its entries make a tree that a signed checkpoint extends.

The header is not believed: the subtree roots before the range are right exactly if the range, folded onto
them, leads to the signed root.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, cast

from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.core.merkle import Checkpoint, Frontier, leaf_hash, parse_checkpoint, verify_consistency
from stepwrit_broker.ledger.checkpoint import open_checkpoint
from stepwrit_broker.ledger.notes import NoteVerifier
from stepwrit_broker.ledger.report import Finding, Renamed, Span
from stepwrit_broker.ledger.source import Entry
from stepwrit_broker.ledger.walk import Walk

TYPE: Final = "stepwrit.ledger.export"
_MAX_LINE: Final = 1 << 20  # bytes; a body of 65,535 bytes, every one escaped, fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an export shows. root: of the tree at `span.upto`. With findings, believe nothing here."""

    path: Path
    span: Span
    root: bytes
    checkpoint: Checkpoint | None
    findings: tuple[Finding, ...]
    renamed: tuple[Renamed, ...] = ()


def verify_export(path: Path, verifier: NoteVerifier) -> Seen:
    """Check the file against the checkpoint key; any origin of that key is taken, and reported."""
    try:
        with path.open("rb") as file:
            return _verify(path, file, verifier)
    except (OSError, Problem) as error:
        detail = error.reason if isinstance(error, Problem) else error.strerror
        finding = Finding(kind="unreadable", seq=None, detail=f"{path.name}: {detail}")
        return Seen(path=path, span=Span(0, 0), root=b"", checkpoint=None, findings=(finding,))


def entries_in(path: Path) -> Iterator[Entry]:
    """The entries of an export that was verified. Raises Malformed, OSError."""
    with path.open("rb") as file:
        span, _ = _range(_object(file))
        for _ in range(span.first, span.upto):
            yield _entry(_object(file))


def _verify(path: Path, file: BinaryIO, verifier: NoteVerifier) -> Seen:
    header = _object(file)
    span, frontier = _range(header)
    walk = Walk(frontier, (), None)
    checkpoint = None
    try:
        for _ in range(span.first, span.upto):
            walk.step(_entry(_object(file)))
        checkpoint = _closing(file, span, walk, verifier)
    except Problem as error:
        walk.find("unreadable", None, f"{path.name}: {error.reason}")
    return Seen(
        path=path,
        span=span,
        root=walk.frontier.root,
        checkpoint=checkpoint,
        findings=tuple(walk.findings),
        renamed=tuple(walk.renamed),
    )


def _range(header: dict[str, object]) -> tuple[Span, Frontier]:
    if header.get("type") != TYPE or header.get("v") != 1:
        _bad("not an export of this version")
    first, upto = header.get("first"), header.get("upto")
    if not isinstance(first, int) or not isinstance(upto, int) or not 0 <= first < upto:
        _bad("no range in the header")
    return Span(first, upto), Frontier(first, _hashes(header.get("frontier")))


def _entry(line: dict[str, object]) -> Entry:
    seq, at, body = line.get("seq"), line.get("at"), _body(line)
    if not isinstance(seq, int) or not isinstance(at, int | float):
        _bad("an entry without number or time")
    return Entry(
        seq=seq,
        at=at,
        kind=_text(line.get("kind")) or "",
        txn=_text(line.get("txn")),
        ref=_text(line.get("ref")),
        tenant=_text(line.get("tenant")),
        leaf=leaf_hash(body),
        body=body,
    )


def _body(line: dict[str, object]) -> bytes:
    text = _text(line.get("body"))
    if text is not None:
        return _utf8(text)
    encoded = _text(line.get("body64"))
    if encoded is None:
        _bad("an entry without a body")
    return _base64(encoded)


def _closing(file: BinaryIO, span: Span, walk: Walk, verifier: NoteVerifier) -> Checkpoint | None:
    closing = _object(file)
    if file.read(1):
        _bad("something follows the closing line")
    note = _text(closing.get("checkpoint")) or ""
    checkpoint = _opened(note, verifier)
    if checkpoint is None:
        walk.find("checkpoint_forged", None, "the closing checkpoint is not signed by this key")
        return None
    try:
        verify_consistency(
            first=span.upto,
            second=checkpoint.size,
            first_root=walk.frontier.root,
            second_root=checkpoint.root,
            path=_hashes(closing.get("consistency")),
        )
    except Problem as error:
        walk.find(
            "root_mismatch", None, f"the signed checkpoint does not extend these entries: {error.reason}"
        )
    return checkpoint


def _opened(note: str, verifier: NoteVerifier) -> Checkpoint | None:
    try:
        return open_by_key(note, verifier)
    except Problem:
        return None


def open_by_key(note: str, verifier: NoteVerifier) -> Checkpoint:
    """The checkpoint in a note that this key signed, under whatever origin the note states."""
    unverified = parse_checkpoint(note.rpartition("\n\n")[0] + "\n")
    return open_checkpoint(note, verifier.under(unverified.origin)).checkpoint


def _object(file: BinaryIO) -> dict[str, object]:
    line = file.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        _bad("the file ends before its closing line")
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        _bad("a line is not JSON")
    if not isinstance(value, dict):
        _bad("a line is not an object")
    return cast("dict[str, object]", value)


def _hashes(values: object) -> Sequence[bytes]:
    if not isinstance(values, list):
        _bad("hashes are a list")
    return [_base64(_text(value) or "") for value in cast("list[object]", values)]


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        _bad("a member is not a string")
    return value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        _bad("a body is not UTF-8")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        _bad("not base64")


def _bad(reason: str) -> NoReturn:
    raise Malformed("invalid_request", reason)

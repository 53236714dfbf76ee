"""The documents beside the log that make approvals verifiable, taken along with an export.

JSON lines: a header, then one line for each document with its transaction's salt. They name persons (an ID
token) and say what was asked: give them to whoever may know that, and erase them like the rest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from stepwrit_broker.core.entry import is_salted_digest
from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.durable import new_file, sync_directory
from stepwrit_broker.ledger.report import Span
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ports import KeptDecision, LoggedEntry

TYPE: Final = "stepwrit.ledger.documents"
_LINE_MAX: Final = 1 << 20


def export_documents(source: LogSource, span: Span, path: Path) -> int:
    """Write the approvals' documents of these entries to a new file, 0600; how many.

    Raises: Conflict when the file exists; Unavailable when it cannot be written.
    """
    count = 0
    try:
        with new_file(path) as file:
            file.write(_line({"type": TYPE, "v": 1, "first": span.first, "upto": span.upto}))
            for line in _lines(source, span):
                file.write(_line(line))
                count += 1
        sync_directory(path.parent)
    except FileExistsError:
        raise Conflict("wrong_state", f"{path.name} exists already") from None
    except OSError as error:
        raise in_doubt(f"the documents cannot be written: {error.strerror}") from error
    return count


def _lines(source: LogSource, span: Span) -> Iterator[dict[str, object]]:
    for digest, txn, doc, salt in source.approvals(span):
        told = None if salt is None else base64.b64encode(salt).decode()
        yield {"digest": digest, "txn": txn, "salt": told, "doc": base64.b64encode(doc).decode()}


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


class DocumentFiles:
    """The documents of such files. Each is believed only where its salted digest is that of its entry."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        """Raises Malformed for a file that is none."""
        self._documents: dict[str, tuple[bytes, bytes | None]] = {}
        self._salts: dict[str, bytes] = {}
        for path in paths:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                if json.loads(file.readline(_LINE_MAX)).get("type") != TYPE:
                    raise ValueError("another type")
                for line in iter(lambda: file.readline(_LINE_MAX), b""):
                    self._take(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as bad:
            raise Malformed("invalid_request", f"{path.name}: not documents of a ledger") from bad

    def _take(self, said: Mapping[str, str | None]) -> None:
        salt = None if said["salt"] is None else base64.b64decode(said["salt"], validate=True)
        digest, txn, doc = said["digest"] or "", said["txn"], said["doc"] or ""
        self._documents[digest] = base64.b64decode(doc, validate=True), salt
        if salt is not None and txn:
            self._salts[txn] = salt

    def proved(self, entry: LoggedEntry) -> KeptDecision:
        """As the LedgerView port has it."""
        digest = None if entry.facts is None else entry.facts.get("decision")
        if not isinstance(digest, str):
            return KeptDecision(proved="sealed" if entry.facts is None else "none")
        return proved_of(digest, self._documents.get(digest))

    def salt(self, txn: str) -> bytes | None:
        """A transaction's salt, if it was taken along."""
        return self._salts.get(txn)


def proved_of(digest: str, kept: tuple[bytes, bytes | None] | None) -> KeptDecision:
    """The document under this salted digest, if its bytes and salt make that."""
    if kept is None:
        return KeptDecision(proved="erased")
    raw, salt = kept
    if salt is None:
        return KeptDecision(proved="unsalted")
    if not is_salted_digest(digest, salt, raw):
        return KeptDecision(proved="changed")
    return KeptDecision(proved="good", document=cast("Mapping[str, object]", json.loads(raw)))

"""An export as Parquet, for tools that ask questions of many entries at once.

The JSON lines stay the evidence: only an export that verifies is written again, and each row keeps the
entry's bytes and leaf hash, so that the tree can be built anew from the table.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.durable import sync_directory
from stepwrit_broker.ledger.exported import entries_in, verify_export
from stepwrit_broker.ledger.notes import NoteVerifier
from stepwrit_broker.ledger.source import Entry

BATCH: Final = 10_000  # rows
WORDS: Final = (
    "step",
    "parent",
    "tool",
    "impact",
    "origin",
    "initiator",
    "performer",
    "code",
    "rule",
    "grant",
)
"""Members of entries that have a column of their own, beside seq, at, kind, txn, ref, tenant, leaf, body."""


def write_parquet(export: Path, into: Path, verifier: NoteVerifier) -> int:
    """Write a verified export to a new file, whole on return; how many rows.

    Raises: Conflict when the export does not verify, or the file exists; Unavailable without pyarrow or room.
    """
    arrow, parquet = _arrow()
    seen = verify_export(export, verifier)
    if seen.findings or seen.checkpoint is None:
        raise Conflict("wrong_state", f"the export does not verify: {seen.findings[0].detail}")
    told = {
        "stepwrit.origin": seen.checkpoint.origin,
        "stepwrit.first": str(seen.span.first),
        "stepwrit.upto": str(seen.span.upto),
        "stepwrit.root": seen.root.hex(),
    }
    draft = into.with_name(f".{into.name}.new")
    try:
        rows = _write(arrow, parquet, _schema(arrow).with_metadata(told), entries_in(export), draft)
        os.link(draft, into)
        sync_directory(into.parent)
    except FileExistsError:
        raise Conflict("wrong_state", "the file exists already") from None
    except OSError as error:
        raise Unavailable("unavailable", f"the table cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise Unavailable("unavailable", "Parquet needs pyarrow: pip install 'stepwrit[parquet]'") from None


def _schema(arrow: Any) -> Any:
    word = arrow.dictionary(arrow.int32(), arrow.string())
    return arrow.schema(
        [
            arrow.field("seq", arrow.int64(), nullable=False),
            arrow.field("at", arrow.timestamp("us", tz="UTC"), nullable=False),
            arrow.field("kind", word, nullable=False),
            *(arrow.field(name, arrow.string()) for name in ("txn", "ref", "tenant")),
            *(arrow.field(name, word) for name in WORDS),
            arrow.field("leaf", arrow.binary(32), nullable=False),
            arrow.field("body", arrow.binary(), nullable=False),
        ]
    )


def _write(arrow: Any, parquet: Any, schema: Any, entries: Iterator[Entry], draft: Path) -> int:
    rows = 0
    with draft.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while page := [_row(each) for each in islice(entries, BATCH)]:
                writer.write_table(arrow.Table.from_pylist(page, schema=schema))
                rows += len(page)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _row(entry: Entry) -> dict[str, object]:
    said = _members(entry.body or b"")
    words = {name: value if isinstance(value := said.get(name), str) else None for name in WORDS}
    return {
        "seq": entry.seq,
        "at": round(entry.at * 1_000_000),
        "kind": entry.kind,
        "txn": entry.txn,
        "ref": entry.ref,
        "tenant": entry.tenant,
        **words,
        "leaf": entry.leaf,
        "body": entry.body,
    }


def _members(body: bytes) -> Mapping[str, object]:
    try:
        value: object = json.loads(body)
    except ValueError:
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}

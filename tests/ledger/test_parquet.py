"""An export as Parquet: typed, whole, and still the same tree."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.helpers import KEY, OTHER_KEY, Ledger

from stepwrit_broker.core.entry import encode
from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.core.merkle import leaf_hash, root_of
from stepwrit_broker.ledger import parquet
from stepwrit_broker.ledger.export import export_range
from stepwrit_broker.ledger.parquet import write_parquet
from stepwrit_broker.ledger.report import Span

arrow: Any = importlib.import_module("pyarrow")
tables: Any = importlib.import_module("pyarrow.parquet")


@pytest.fixture
def export(ledger: Ledger, tmp_path: Path) -> Path:
    facts = {"tool": "ledger/transfer", "origin": "model", "txn": "txn_1", "tenant": "a"}
    said = [encode("step.opened", "REF0000001", 1_760_000_000.5, {**facts, "n": at}) for at in range(3)]
    ledger.add_bodies(said, txn="txn_1", ref="REF0000001", tenant="a")
    ledger.add_bodies([b"[]", b"\xff no JSON"])
    ledger.sign()
    path = tmp_path / "e.jsonl"
    export_range(ledger.source, Span(0, 5), path, KEY.verifier)
    return path


def test_columns_have_types_and_the_tree_can_be_built_from_them(
    export: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parquet, "BATCH", 2)
    out = tmp_path / "e.parquet"
    assert write_parquet(export, out, KEY.verifier) == 5
    table = tables.read_table(out)
    assert table.schema.field("at").type == arrow.timestamp("us", tz="UTC")
    assert table.schema.field("seq").type == arrow.int64()
    assert table.schema.field("leaf").type == arrow.binary(32)
    rows = table.to_pylist()
    assert [row["seq"] for row in rows] == [0, 1, 2, 3, 4]
    assert (rows[0]["tool"], rows[0]["origin"], rows[0]["code"]) == ("ledger/transfer", "model", None)
    assert (rows[0]["txn"], rows[0]["tenant"], rows[3]["tool"]) == ("txn_1", "a", None)
    assert rows[0]["at"] == datetime(2025, 10, 9, 8, 53, 20, 500_000, tzinfo=UTC)
    assert [row["leaf"] for row in rows] == [leaf_hash(row["body"]) for row in rows]
    assert root_of(row["leaf"] for row in rows) == ledger.log.root
    assert table.schema.metadata[b"stepwrit.root"].decode() == ledger.log.root.hex()
    assert out.stat().st_mode & 0o077 == 0


def test_an_export_that_does_not_verify_is_not_written_again(export: Path, tmp_path: Path):
    out = tmp_path / "e.parquet"
    with pytest.raises(Conflict, match="does not verify"):
        write_parquet(export, out, OTHER_KEY.verifier)
    export.write_bytes(export.read_bytes().replace(b"transfer", b"transfex", 1))
    with pytest.raises(Conflict, match="does not verify"):
        write_parquet(export, out, KEY.verifier)
    assert not out.exists()


def test_nothing_is_replaced_and_no_draft_stays(export: Path, tmp_path: Path):
    out = tmp_path / "e.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(Conflict, match="exists"):
        write_parquet(export, out, KEY.verifier)
    assert out.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*.new"))
    with pytest.raises(Unavailable):
        write_parquet(export, tmp_path / "gone" / "e.parquet", KEY.verifier)


def test_without_pyarrow_it_says_what_to_install(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", missing)
    with pytest.raises(Unavailable, match="stepwrit\\[parquet\\]"):
        write_parquet(export, tmp_path / "e.parquet", KEY.verifier)

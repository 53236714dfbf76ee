"""The contract of the LedgerView port: it reads what is committed, and only what the asker may see."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.merkle import verify_inclusion
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.checkpoint import Checkpointer
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import KeptDecision


@dataclass
class Book:
    conn: sqlite3.Connection
    log: SqliteLog
    view: SqliteLedgerView
    checkpointer: Checkpointer

    def write(self, kind: str, ref: str, tenant: str | None, txn: str | None, **more: str) -> int:
        self.conn.execute("BEGIN")
        body = json.dumps({"kind": kind, "ref": ref, **more}).encode()
        seq = self.log.append(self.conn, body=body, at=1.0, kind=kind, txn=txn, ref=ref, tenant=tenant)
        self.log.seal(self.conn)
        self.conn.execute("COMMIT")
        self.log.committed()
        return seq


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    path = tmp_path / "log.db"
    conn, log = sqlite3.connect(path, isolation_level=None), SqliteLog()
    conn.executescript("PRAGMA journal_mode=WAL;" + log.schema)
    log.load(conn)
    key = NoteSigner.from_seed("log.example.test", bytes(32))
    log.name_log(conn, key.name)
    view = SqliteLedgerView(path)
    yield Book(conn, log, view, Checkpointer(key, AnchorFile(tmp_path / "anchor.json")))
    view.close()
    conn.close()


def test_an_entry_is_found_by_ref_transaction_and_number_once_it_is_committed(book: Book) -> None:
    seq = book.write("step.opened", "REF0000001", "a", "txn_1")
    for found in (
        book.view.by_ref("REF0000001", "a"),
        book.view.of_txn("txn_1"),
        book.view.tail(-1, 10, (), "a"),
    ):
        assert [entry.seq for entry in found] == [seq]


def test_what_is_not_committed_is_not_seen(book: Book) -> None:
    book.write("step.opened", "REF0000001", "a", "txn_1")
    book.conn.execute("BEGIN")
    book.log.append(book.conn, body=b"{}", at=1.0, kind="refused", txn=None, ref="REF0000002", tenant="a")
    assert len(book.view.tail(-1, 10, (), "a")) == 1
    book.conn.execute("ROLLBACK")


def test_another_tenants_ref_looks_like_none_and_the_local_operator_sees_all(book: Book) -> None:
    book.write("refused", "REF0000001", "a", None)
    assert book.view.by_ref("REF0000001", "a")
    assert list(book.view.by_ref("REF0000001", "b")) == []
    assert book.view.by_ref("REF0000001", None)
    assert list(book.view.tail(-1, 10, (), "b")) == []


def test_kinds_narrow_the_tail(book: Book) -> None:
    book.write("refused", "REF0000001", "a", None)
    book.write("step.opened", "REF0000002", "a", None)
    assert [entry.kind for entry in book.view.tail(-1, 10, ("refused",), "a")] == ["refused"]


def test_a_proof_leads_from_the_entry_to_the_signed_root(book: Book) -> None:
    seqs = [book.write("refused", f"REF000000{at}", "a", None) for at in range(5)]
    with pytest.raises(Refused):
        book.view.inclusion(seqs[3])
    book.checkpointer.sign(book.conn, book.log, epoch="epoch-0001", high_water=1.0, at=1.0)
    proof = book.view.inclusion(seqs[3])
    path = proof["path"]
    assert isinstance(path, list)
    verify_inclusion(
        leaf=bytes.fromhex(str(proof["leaf"])),
        index=seqs[3],
        size=int(str(proof["size"])),
        path=[bytes.fromhex(each) for each in path],
        root=bytes.fromhex(str(proof["root"])),
    )
    assert book.view.head()["size"] == 5


def test_an_erased_decision_is_none(book: Book) -> None:
    book.conn.execute("BEGIN")
    book.log.put_decision(book.conn, "d1", "txn_1", b'{"verdict":"permit"}')
    book.conn.execute("COMMIT")
    assert book.view.decision("d1") == {"verdict": "permit"}
    book.log.erase_decisions(book.conn, "txn_1")
    assert book.view.decision("d1") is None


def test_a_decision_is_handed_over_only_as_the_entry_names_it(book: Book) -> None:
    raw, salt = b'{"verdict":"permit"}', b"s" * 16
    digest = hashlib.sha256(salt + raw).hexdigest()
    book.conn.execute("BEGIN")
    book.log.put_salt(book.conn, "txn_1", salt)
    book.log.put_decision(book.conn, digest, "txn_1", raw)
    book.conn.execute("COMMIT")
    book.write("step.opened", "REF0000001", "a", "txn_1", decision=digest)
    (entry,) = book.view.of_txn("txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="good", document={"verdict": "permit"})
    assert book.view.proved(replace(entry, facts=None)).proved == "sealed"
    assert book.view.proved(replace(entry, facts={})).proved == "none"
    book.conn.execute('UPDATE decisions SET doc = CAST(\'{"verdict":"deny"}\' AS BLOB)')
    assert book.view.proved(entry) == KeptDecision(proved="changed")
    cut = (salt + raw[:1], raw[1:])  # the same bytes in all, cut elsewhere
    book.conn.execute("UPDATE salts SET salt = ?", (cut[0],))
    book.conn.execute("UPDATE decisions SET doc = ?", (cut[1],))
    assert book.view.proved(entry) == KeptDecision(proved="changed")
    book.log.erase_salt(book.conn, "txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="unsalted")
    book.log.erase_decisions(book.conn, "txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="erased")


def test_the_view_cannot_write(book: Book) -> None:
    book.write("refused", "REF0000001", "a", None)
    with pytest.raises(sqlite3.OperationalError):
        book.view._source._conn.execute("DELETE FROM entries")
    assert len(book.view.tail(-1, 10, (), None)) == 1

"""The contract of the LedgerView port: it reads what is committed, and only what the asker may see."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from tests.contracts.books import Book

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.merkle import verify_inclusion
from stepwrit_broker.ports import KeptDecision


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
    with book.unfinished():
        assert len(book.view.tail(-1, 10, (), "a")) == 1
        assert book.view.head()["size"] == 1
    assert book.write("step.opened", "REF0000003", "a", "txn_1") == 1
    assert len(book.view.tail(-1, 10, (), "a")) == 2


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
    book.sign()
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
    book.keep("d1", "txn_1", b'{"verdict":"permit"}', b"s" * 16)
    assert book.view.decision("d1") == {"verdict": "permit"}
    book.erase("txn_1")
    assert book.view.decision("d1") is None


def test_a_decision_is_handed_over_only_as_the_entry_names_it(book: Book) -> None:
    raw, salt = b'{"verdict":"permit"}', b"s" * 16
    digest = hashlib.sha256(salt + raw).hexdigest()
    book.keep(digest, "txn_1", raw, salt)
    book.write("step.opened", "REF0000001", "a", "txn_1", decision=digest)
    (entry,) = book.view.of_txn("txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="good", document={"verdict": "permit"})
    assert book.view.proved(replace(entry, facts=None)).proved == "sealed"
    assert book.view.proved(replace(entry, facts={})).proved == "none"
    book.spoil(salt, b'{"verdict":"deny"}')
    assert book.view.proved(entry) == KeptDecision(proved="changed")
    book.spoil(salt + raw[:1], raw[1:])  # the same bytes in all, cut elsewhere
    assert book.view.proved(entry) == KeptDecision(proved="changed")
    book.erase_salt("txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="unsalted")
    book.erase("txn_1")
    assert book.view.proved(entry) == KeptDecision(proved="erased")


def test_a_body_that_was_dropped_leaves_the_entry_and_its_proof(book: Book) -> None:
    seqs = [book.write("refused", f"REF000000{at}", "a", None) for at in range(3)]
    book.sign()
    assert book.view.body(seqs[1]) is not None
    book.drop_body(seqs[1])
    assert book.view.body(seqs[1]) is None
    assert [entry.facts is None for entry in book.view.tail(-1, 10, (), "a")] == [False, True, False]
    assert book.view.inclusion(seqs[1])["seq"] == seqs[1]
    assert book.view.body(99) is None


def test_every_entry_is_told_once_however_many(book: Book) -> None:
    for at in range(7):
        book.write("refused", f"REF000000{at}", "a", None)
    assert [entry.seq for entry in book.view.every()] == list(range(7))
    assert [entry.seq for entry in book.view.tail(2, 2, (), None)] == [3, 4]


def test_the_view_cannot_write(book: Book) -> None:
    book.write("refused", "REF0000001", "a", None)
    with pytest.raises(book.read_only):
        book.delete_by_view()
    assert len(book.view.tail(-1, 10, (), None)) == 1

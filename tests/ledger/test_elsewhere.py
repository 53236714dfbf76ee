"""Cut off, forked, forged: what a witness's cosignatures and a checkpoint kept elsewhere show."""

from __future__ import annotations

import pytest
from tests.ledger.helpers import KEY, Ledger

from stepwrit_broker.ledger.cosignature import CosignatureSigner, cosigned
from stepwrit_broker.ledger.elsewhere import Elsewhere
from stepwrit_broker.ledger.notes import NoteSigner, sign_note
from stepwrit_broker.ledger.report import Report
from stepwrit_broker.ledger.verify import verify_database
from stepwrit_broker.ledger.witness.kept import keep

W1 = CosignatureSigner.from_seed("witness.example/w1", b"1" * 32)
W2 = CosignatureSigner.from_seed("witness.example/w2", b"2" * 32)
AT = 1_760_000_000


def cosign(ledger: Ledger, signer: CosignatureSigner) -> str:
    """What a witness has after the ledger's head was signed."""
    note = ledger.sign().note
    line = signer.line(note.partition("\n\n")[0] + "\n", AT)
    (made,) = cosigned(note + line, [signer.verifier])
    keep(ledger.conn, KEY.name, ledger.log.size, made)
    return note + line


def checked(ledger: Ledger, **elsewhere) -> Report:
    return verify_database(ledger.path, KEY.verifier.vkey, elsewhere=Elsewhere(**elsewhere))


def kinds(report: Report) -> set[str]:
    return {each.kind for each in report.findings}


def cut(ledger: Ledger, size: int) -> None:
    ledger.tamper(
        f"DELETE FROM entries WHERE seq >= {size}",
        f"DELETE FROM checkpoints WHERE size > {size}",
        f"DELETE FROM cosignatures WHERE size > {size}",
    )


def test_a_log_cut_back_to_an_older_checkpoint_is_found_by_what_its_witness_kept(ledger: Ledger):
    ledger.add(5)
    cosign(ledger, W1)
    ledger.add(4)
    head = cosign(ledger, W1)
    report = checked(ledger, checkpoints=(head,), witnesses=(W1.verifier,))
    assert (report.ok, report.cannot_exclude) == (True, None)
    assert [(each.witness, each.size) for each in report.cosigned] == [("witness.example/w1", 9)]
    assert "cosigned to size 9 by witness.example/w1, 2025-10-09T08:53:20Z" in report.lines()
    cut(ledger, 5)
    assert checked(ledger).ok, "by itself it is whole"
    assert checked(ledger, witnesses=(W1.verifier,)).cosigned[0].size == 5, "and its witness followed so far"
    assert kinds(checked(ledger, checkpoints=(head,), witnesses=(W1.verifier,))) == {"truncated"}


def test_a_log_that_was_forked_is_found_too(ledger: Ledger, tmp_path):
    ledger.add(5)
    cosign(ledger, W1)
    ledger.add(4)
    head = cosign(ledger, W1)
    cut(ledger, 5)
    (tmp_path / "fork").mkdir()
    fork = Ledger(tmp_path / "fork")
    fork.add(5)
    fork.sign()
    fork.add_bodies([b"another %d" % at for at in range(6)])
    fork.sign()
    assert checked(fork).ok
    assert kinds(checked(fork, checkpoints=(head,))) == {"root_mismatch"}
    fork.close()


def test_a_stored_cosignature_that_does_not_verify_is_a_finding(ledger: Ledger):
    ledger.add(5)
    cosign(ledger, W1)
    assert checked(ledger, witnesses=(W1.verifier,)).ok
    ledger.tamper("UPDATE cosignatures SET line = replace(line, substr(line, -20, 4), 'AAAA')")
    assert "cosignature_forged" in kinds(checked(ledger, witnesses=(W1.verifier,)))
    assert checked(ledger).ok, "whoever gives no key has no opinion of it"


def test_fewer_witnesses_than_demanded_are_a_finding(ledger: Ledger):
    ledger.add(5)
    head = cosign(ledger, W1)
    both = (W1.verifier, W2.verifier)
    assert checked(ledger, witnesses=both, quorum=1).ok
    assert kinds(checked(ledger, witnesses=both)) == {"not_cosigned"}
    assert not checked(ledger, checkpoints=(head,), witnesses=both).ok
    cosign(ledger, W2)
    assert checked(ledger, witnesses=both).ok


@pytest.mark.parametrize("kept", ["nonsense", "forged", "of another log"])
def test_a_kept_checkpoint_that_is_none_of_this_log_is_no_evidence(ledger: Ledger, kept: str):
    ledger.add(5)
    head = cosign(ledger, W1)
    assert checked(ledger, checkpoints=(head,)).ok
    text = head.partition("\n\n")[0] + "\n"
    other = NoteSigner.from_seed("other.example", b"\x07" * 32)
    bad = {
        "nonsense": "nothing",
        "forged": head.replace("\n5\n", "\n6\n"),
        "of another log": sign_note(text.replace(KEY.name, "other.example"), [other]),
    }[kept]
    assert kinds(checked(ledger, checkpoints=(bad,))) == {"unreadable"}


def test_the_newest_with_its_quorum_is_that_of_the_witnesses_asked_for(ledger: Ledger):
    ledger.add(5)
    first = cosign(ledger, W1)
    ledger.add(1)
    cosign(ledger, W2)
    vkeys = [W1.verifier.vkey, W2.verifier.vkey]
    assert ledger.source.newest_with(vkeys, 1, 6) == (6, ledger.reader().newest_checkpoint())
    assert ledger.source.newest_with(vkeys[:1], 1, 6) == (5, first)
    assert ledger.source.newest_with(vkeys, 1, 5) == (5, first)
    assert ledger.source.newest_with(vkeys, 2, 6) is None
    cosign(ledger, W1)
    found = ledger.source.newest_with(vkeys, 2, 6)
    assert found is not None
    assert len(cosigned(found.note, [W1.verifier, W2.verifier])) == 2
    assert ledger.source.cosigned_at(vkeys[0]) == AT
    assert ledger.source.cosigned_at("nobody") == 0


def test_a_database_from_before_there_were_cosignatures_still_verifies(ledger: Ledger):
    ledger.add(5)
    ledger.sign()
    ledger.tamper("DROP TABLE cosignatures")
    assert checked(ledger).ok
    assert kinds(checked(ledger, witnesses=(W1.verifier,))) == {"not_cosigned"}


def test_proofs_prefer_a_cosigned_checkpoint(ledger: Ledger):
    ledger.add(5)
    ledger.sign()
    ledger.add(1)
    cosign(ledger, W1)
    reader = ledger.reader()
    assert reader.checkpoint(at_least=3) != reader.cosigned_checkpoint(at_least=3, quorum=1)
    assert (reader.cosigned_checkpoint(at_least=3, quorum=1) or "").count("— ") == 2
    assert reader.cosigned_checkpoint(at_least=3, quorum=2) is None

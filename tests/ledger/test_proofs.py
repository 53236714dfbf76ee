"""One entry as evidence: from two files and public keys, and from nothing else."""

import pytest
from tests.ledger.helpers import KEY, OTHER_KEY, Ledger

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.tlog import LogProof
from stepwrit_broker.ledger.cosignature import CosignatureSigner
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.proofs import MAX_PROOF_BYTES, verify_proof

W1 = CosignatureSigner.from_seed("witness.example/w1", b"1" * 32)
W2 = CosignatureSigner.from_seed("witness.example/w2", b"2" * 32)


def proof_of(ledger: Ledger, seq: int) -> LogProof:
    reader = ledger.reader()
    note = reader.checkpoint(at_least=seq + 1)
    assert note is not None
    path = reader.inclusion(seq, ledger.log.size).path
    return LogProof(index=seq, path=path, checkpoint=note)


@pytest.fixture
def proof(ledger: Ledger) -> LogProof:
    ledger.add(300)
    ledger.sign()
    return proof_of(ledger, 77)


def with_witnesses(proof: LogProof, *signers: CosignatureSigner) -> str:
    text = proof.checkpoint.partition("\n\n")[0] + "\n"
    lines = "".join(each.line(text, 1_760_000_000) for each in signers)
    return LogProof(index=proof.index, path=proof.path, checkpoint=proof.checkpoint + lines).text()


def test_an_entry_is_proved_by_the_logs_key_alone(proof: LogProof):
    proved = verify_proof(proof.text(), b"77", KEY.verifier)
    assert (proved.index, proved.checkpoint.size, proved.cosigned) == (77, 300, ())


def test_it_is_proved_with_what_witnesses_cosigned(proof: LogProof):
    known = [W1.verifier, W2.verifier]
    proved = verify_proof(with_witnesses(proof, W1, W2), b"77", KEY.verifier, witnesses=known)
    assert [each.by for each in proved.cosigned] == known
    one = with_witnesses(proof, W2)
    assert len(verify_proof(one, b"77", KEY.verifier, witnesses=known, quorum=1).cosigned) == 1
    with pytest.raises(Problem, match="1 of 2 witnesses"):
        verify_proof(one, b"77", KEY.verifier, witnesses=known)


def test_another_entry_another_number_another_key_and_another_tree_prove_nothing(proof: LogProof):
    good = proof.text()
    verify_proof(good, b"77", KEY.verifier)
    other_log = NoteSigner.from_seed("other.example", b"\x07" * 32)
    shorter = LogProof(index=77, path=proof.path[:-1], checkpoint=proof.checkpoint)
    for text, entry, key in (
        (good, b"78", KEY),
        (good.replace("index 77", "index 78"), b"77", KEY),
        (good, b"77", OTHER_KEY),
        (good, b"77", other_log),  # the very key, under another log's name
        (good.replace("\n300\n", "\n301\n"), b"77", KEY),
        (shorter.text(), b"77", KEY),
        (good + "x" * MAX_PROOF_BYTES, b"77", KEY),
    ):
        with pytest.raises(Problem):
            verify_proof(text, entry, key.verifier)


def test_a_log_that_an_adoption_renamed_is_still_that_keys(tmp_path, ledger: Ledger):
    renamed = f"{KEY.name}/abc"
    ledger.log.rename(ledger.conn, renamed)
    ledger.add(3)
    ledger.sign()
    proved = verify_proof(proof_of(ledger, 1).text(), b"1", KEY.verifier)
    assert proved.checkpoint.origin == renamed

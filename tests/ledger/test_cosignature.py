"""Cosignatures of witnesses: over the whole checkpoint and a time, by a key of its own type."""

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stepwrit_broker.core.merkle import Checkpoint
from stepwrit_broker.ledger.cosignature import (
    CosignatureSigner,
    CosignatureVerifier,
    cosigned,
    parse_witness_vkey,
)
from stepwrit_broker.ledger.notes import NoteRefused, NoteSigner, open_note, sign_note

LOG = NoteSigner.from_seed("log.example", b"l" * 32)
W1 = CosignatureSigner.from_seed("witness.example/w1", b"1" * 32)
W2 = CosignatureSigner.from_seed("witness.example/w2", b"2" * 32)
TEXT = Checkpoint(origin="log.example", size=5, root=b"\x05" * 32, extensions=("more",)).text()
NOTE = sign_note(TEXT, [LOG])


def test_the_bytes_are_those_of_the_specification():
    """Made here by hand: header, time, whole body; key ID over type 0x04; u64 time, signature."""
    key = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
    public = key.public_key().public_bytes_raw()
    signature = key.sign(b"cosignature/v1\ntime 1679315147\n" + TEXT.encode())
    key_id = sha256(b"witness.example/w1\n\x04" + public).digest()[:4]
    blob = key_id + (1_679_315_147).to_bytes(8, "big") + signature
    assert W1.line(TEXT, 1_679_315_147) == f"— witness.example/w1 {base64.b64encode(blob).decode()}\n"
    assert W1.verifier.vkey.startswith(f"witness.example/w1+{key_id.hex()}+")


def test_a_cosignature_stands_beside_the_logs_own_and_either_is_read_without_the_other():
    note = NOTE + W1.line(TEXT, 7) + W2.line(TEXT, 8)
    assert open_note(note, [LOG.verifier]).text == TEXT
    assert [(each.by, each.at) for each in cosigned(note, [W2.verifier, W1.verifier])] == [
        (W2.verifier, 8),
        (W1.verifier, 7),
    ]
    assert [each.line for each in cosigned(note, [W1.verifier])] == [W1.line(TEXT, 7)]


def test_of_two_by_the_same_witness_the_later_counts():
    note = NOTE + W1.line(TEXT, 9) + W1.line(TEXT, 7)
    assert [each.at for each in cosigned(note, [W1.verifier])] == [9]


def test_a_stranger_under_a_witnesss_name_is_ignored():
    stranger = CosignatureSigner.from_seed("witness.example/w1", b"x" * 32)
    assert cosigned(NOTE + W1.line(TEXT, 7), [W1.verifier])
    assert cosigned(NOTE + stranger.line(TEXT, 7), [W1.verifier]) == ()


@pytest.mark.parametrize("change", ["text", "time", "signature", "short", "date"])
def test_a_cosignature_that_does_not_verify_refuses_the_note(change: str):
    assert len(cosigned(NOTE + W1.line(TEXT, 7), [W1.verifier])) == 1
    blob = bytearray(base64.b64decode(W1.line(TEXT, 7).split()[-1]))
    text = TEXT
    match change:
        case "text":
            text = TEXT.replace("\n5\n", "\n6\n")
        case "time":
            blob[11] ^= 1
        case "signature":
            blob[-1] ^= 1
        case "short":
            del blob[-1]
        case _:  # a time that no calendar has, rightly signed
            blob = bytearray(base64.b64decode(W1.line(TEXT, 2**62).split()[-1]))
    line = f"— witness.example/w1 {base64.b64encode(blob).decode()}\n"
    with pytest.raises(NoteRefused):
        cosigned(sign_note(text, [LOG]) + line, [W1.verifier])


def test_keys_can_be_read_back_and_a_logs_key_is_none():
    assert parse_witness_vkey(W1.verifier.vkey) == W1.verifier
    for bad in (LOG.verifier.vkey, W1.verifier.vkey.replace("w1", "w2"), W1.verifier.vkey + "A", "", "a+b"):
        with pytest.raises(NoteRefused):
            parse_witness_vkey(bad)
    with pytest.raises(NoteRefused):
        CosignatureVerifier(name="w", public=b"short")


def test_no_repr_shows_the_secret():
    assert "1111" not in repr(W1)

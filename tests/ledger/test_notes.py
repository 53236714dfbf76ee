"""Signed notes against the format's own examples, and against everything that is almost one."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.ledger.notes import (
    NoteRefused,
    NoteSigner,
    NoteVerifier,
    open_note,
    parse_secret,
    parse_vkey,
    secret_line,
    sign_note,
)

# The example of C2SP signed-note.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONn"
    "cAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# The example of golang.org/x/mod/sumdb/note, where the format comes from.
GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuG"
    "UgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp"
    "+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
GO_NOTE = f"{GO_TEXT}\n{PETER}"


def test_the_examples_of_the_format_verify():
    spec, go = parse_vkey(SPEC_VKEY), parse_vkey(GO_VKEY)
    assert (spec.vkey, go.vkey) == (SPEC_VKEY, GO_VKEY)
    assert open_note(SPEC_NOTE, [spec]).text == "This is an example message.\n"
    assert open_note(SPEC_NOTE.encode(), [go, spec]).signed_by == (spec,)
    assert open_note(GO_NOTE, [go]).text == GO_TEXT


def test_signing_the_example_gives_the_example():
    signer = parse_secret(GO_SECRET)
    assert signer.verifier.vkey == GO_VKEY
    assert sign_note(GO_TEXT, [signer]) == GO_NOTE


def test_unknown_keys_are_ignored_even_when_their_signatures_are_bad():
    peter, enoch = parse_vkey(GO_VKEY), parse_vkey(ENOCH_VKEY)
    both = GO_NOTE + ENOCH
    assert open_note(both, [peter, enoch]).signed_by == (peter, enoch)
    assert open_note(both, [peter]).signed_by == (peter,)
    same_name = peter.name, NoteSigner.from_seed(peter.name, b"x" * 32)
    stranger = same_name[1].line("another text\n")
    assert open_note(GO_NOTE + stranger, [peter]).signed_by == (peter,)


def test_one_bad_signature_of_a_known_key_refuses_the_note():
    peter, enoch = parse_vkey(GO_VKEY), parse_vkey(ENOCH_VKEY)
    open_note(GO_NOTE + ENOCH, [peter, enoch])
    bad = base64.b64encode(enoch.key_id + bytes(64)).decode()
    with pytest.raises(NoteRefused, match="EnochRoot does not verify"):
        open_note(f"{GO_NOTE}— EnochRoot {bad}\n", [peter, enoch])


@given(st.integers(0, 64 * 8 - 1))
def test_every_flipped_bit_of_a_signature_is_refused(bit: int):
    peter = parse_vkey(GO_VKEY)
    blob = bytearray(base64.b64decode(PETER.split(" ")[2]))
    blob[4 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(NoteRefused):
        open_note(f"{GO_TEXT}\n— PeterNeumann {base64.b64encode(blob).decode()}\n", [peter])


@pytest.mark.parametrize(
    "note",
    [
        "",
        GO_TEXT,
        GO_TEXT + PETER,
        GO_NOTE[:-1],
        GO_NOTE + "\n",
        GO_NOTE.replace("—", "-"),
        GO_NOTE.replace("Peter", "Pe ter"),
        GO_NOTE.replace("PeterNeumann ", "PeterNeumann+ "),
        GO_NOTE.replace("answer", "anshwer"),
        GO_NOTE.replace("problem,\n", "problem,\r\n"),
        GO_NOTE.replace("JnAM=", "JnAN="),
        GO_NOTE.replace("x08go", "x08_o"),
        GO_NOTE + "— PeterNeumann \n",
        GO_NOTE + "— PeterNeumann x08go/Y=\n",
        GO_NOTE + "anything\n",
        GO_NOTE + ENOCH * 100,
        "x" * 1_000_001 + GO_NOTE,
        GO_NOTE + "\udcff",
        GO_NOTE.encode() + b"\xff\n",
    ],
)
def test_what_is_not_exactly_a_note_is_refused(note: str | bytes):
    known = [parse_vkey(GO_VKEY)]
    open_note(GO_NOTE, known)
    with pytest.raises(NoteRefused):
        open_note(note, known)


def test_a_note_nobody_known_signed_is_refused():
    open_note(GO_NOTE, [parse_vkey(GO_VKEY)])
    for known in ([], [parse_vkey(SPEC_VKEY)]):
        with pytest.raises(NoteRefused, match="no known key"):
            open_note(GO_NOTE, known)


def test_two_known_keys_that_cannot_be_told_apart_are_refused():
    key = parse_vkey(GO_VKEY)
    with pytest.raises(NoteRefused, match="share"):
        open_note(GO_NOTE, [key, key])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        GO_VKEY.replace("c74f20a3", "c74f20a4"),
        GO_VKEY.replace("c74f20a3", "C74F20A3"),
        GO_VKEY.replace("+ARpc", "+BBpc"),
        GO_VKEY.replace("PeterNeumann", "Peter Neumann"),
        GO_VKEY[:-4],
        "+" + GO_VKEY,
        GO_SECRET,
    ],
)
def test_a_public_key_line_with_anything_else_is_refused(vkey: str):
    parse_vkey(GO_VKEY)
    with pytest.raises(NoteRefused):
        parse_vkey(vkey)


def test_a_secret_is_in_no_repr_and_no_error():
    signer = parse_secret(GO_SECRET)
    secret = GO_SECRET.rsplit("+", 1)[1]
    assert secret not in repr(signer)
    with pytest.raises(NoteRefused) as caught:
        parse_secret(GO_SECRET.replace("c74f20a3", "c74f20a4"))
    assert secret[4:] not in str(caught.value)
    with pytest.raises(NoteRefused):
        parse_secret(GO_VKEY)
    with pytest.raises(NoteRefused):
        NoteSigner.from_seed("name", b"short")


@given(st.binary(min_size=32, max_size=32), st.text("ab/.é", min_size=1), st.text("x \n—", max_size=20))
def test_what_we_sign_we_can_read(seed: bytes, name: str, text: str):
    signer = parse_secret(secret_line(name, seed))
    text += "\n"
    assert open_note(sign_note(text, [signer]), [parse_vkey(signer.verifier.vkey)]).text == text


@pytest.mark.parametrize("text", ["", "no newline", "tab\there\n"])
def test_text_that_is_no_note_text_is_not_signed(text: str):
    signer = NoteSigner.from_seed("name", b"s" * 32)
    sign_note("text\n", [signer])
    with pytest.raises(NoteRefused):
        sign_note(text, [signer])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\x00b"])
def test_names_that_would_break_a_line_are_refused(name: str):
    public = parse_vkey(GO_VKEY).public
    NoteVerifier(name="fine", public=public)
    with pytest.raises(NoteRefused):
        NoteVerifier(name=name, public=public)

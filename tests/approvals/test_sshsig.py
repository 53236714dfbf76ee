"""SSH signatures by vectors of `ssh-keygen`, and each way in which they could be something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwrit_broker.approvals import sshsig
from stepwrit_broker.approvals.keys import check, read_key
from stepwrit_broker.approvals.sshsig import dearmored, parse
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.statement import APPROVAL, REQUEST

VECTORS = Path("tests/vectors/sshsig")
DOC = (VECTORS / "doc").read_bytes()
KINDS = ("ed25519", "ecdsa")


def key(kind: str) -> str:
    return read_key((VECTORS / f"{kind}.pub").read_text())


def blob(name: str) -> bytes:
    return dearmored((VECTORS / f"{name}.sig").read_text())


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def made(
    *, version: int = 1, reserved: bytes = b"", hashed: bytes = b"sha512", kind: str = "ed25519"
) -> bytes:
    """A good signature's parts, put together anew."""
    parts = parse(blob(f"{kind}.{APPROVAL}"))
    body = (parts.key, parts.namespace, reserved, hashed, parts.signature)
    return b"SSHSIG" + version.to_bytes(4) + b"".join(string(each) for each in body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [APPROVAL, "sha256"])
def test_what_ssh_keygen_signed_holds(kind: str, which: str) -> None:
    check(key(kind), APPROVAL, DOC, blob(f"{kind}.{which}"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_holds_in_its_own_namespace_alone(kind: str) -> None:
    check(key(kind), REQUEST, DOC, blob(f"{kind}.{REQUEST}"))
    for purpose, which in ((APPROVAL, REQUEST), (REQUEST, APPROVAL), (APPROVAL, "file"), (REQUEST, "file")):
        with pytest.raises(Unproven, match="does not hold"):
            check(key(kind), purpose, DOC, blob(f"{kind}.{which}"))


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_or_another_document_does_not_hold(kind: str) -> None:
    good, other = blob(f"{kind}.{APPROVAL}"), next(each for each in KINDS if each != kind)
    check(key(kind), APPROVAL, DOC, good)
    for whose, said in ((other, DOC), (kind, DOC + b"\n"), (kind, DOC[:-1]), (kind, b"")):
        with pytest.raises(Unproven):
            check(key(whose), APPROVAL, said, good)


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_of_it_can_be_another(kind: str) -> None:
    good = blob(f"{kind}.{APPROVAL}")
    for at in range(len(good)):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(Unproven):
            check(key(kind), APPROVAL, DOC, changed)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_whole_and_nothing_stands_behind_it(kind: str) -> None:
    good = blob(f"{kind}.{APPROVAL}")
    for length in range(len(good)):
        with pytest.raises(Unproven):
            check(key(kind), APPROVAL, DOC, good[:length])
    for more in (b"\0", good, b"\0" * 4):
        with pytest.raises(Unproven):
            check(key(kind), APPROVAL, DOC, good + more)


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"version": 0}, {"reserved": b"x"}, {"hashed": b"sha1"}, {"hashed": b"sha256"}]
)
def test_version_reserved_field_and_hash_are_what_they_must_be(change: dict[str, object]) -> None:
    check(key("ed25519"), APPROVAL, DOC, made())
    with pytest.raises(Unproven):
        check(key("ed25519"), APPROVAL, DOC, made(**change))  # type: ignore[arg-type]


def test_the_kind_of_signature_is_the_keys() -> None:
    kind = "ed25519"
    parts = parse(blob(f"{kind}.{APPROVAL}"))
    _, raw = sshsig._strings(parts.signature, 2)
    for named in (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ssh-rsa", b""):
        body = (parts.key, parts.namespace, b"", parts.hash, string(named) + string(raw))
        whole = b"SSHSIG" + (1).to_bytes(4) + b"".join(string(each) for each in body)
        if named == b"ssh-ed25519":
            check(key(kind), APPROVAL, DOC, whole)
        else:
            with pytest.raises(Unproven):
                check(key(kind), APPROVAL, DOC, whole)


@pytest.mark.parametrize("mpint", [b"", b"\x00", b"\x00\x01", b"\xff", b"\x00\x00\x80"])
def test_an_integer_of_a_signature_is_positive_and_in_its_shortest_form(mpint: bytes) -> None:
    assert sshsig._positive(b"\x01") == 1
    assert sshsig._positive(b"\x00\x80") == 128
    with pytest.raises(ValueError, match="shortest"):
        sshsig._positive(mpint)


def test_a_signature_of_an_rsa_key_is_for_nobody() -> None:
    for kind in KINDS:
        with pytest.raises(Unproven):
            check(key(kind), APPROVAL, DOC, blob("rsa"))


def test_a_blob_is_bounded() -> None:
    with pytest.raises(ValueError, match="version 1"):
        parse(b"SSHSIG" + (1).to_bytes(4) + b"\0" * 5000)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.replace("BEGIN SSH", "BEGIN PGP"),
        lambda text: text.replace("-----END SSH SIGNATURE-----", ""),
        lambda text: text.replace("A", "*", 1),
        lambda text: "\n".join([text.splitlines()[0], text.splitlines()[-1]]),
    ],
)
def test_armor_is_read_strictly(change: object) -> None:
    text = (VECTORS / f"ed25519.{APPROVAL}.sig").read_text()
    assert dearmored(text).startswith(b"SSHSIG")
    with pytest.raises(ValueError, match=r"SSH signature|base64"):
        dearmored(change(text))  # type: ignore[operator]

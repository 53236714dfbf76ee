"""Public keys of approvers: what is taken, in which form it is kept, and what is no key of anybody."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from tests.fakes.approver import new_key, raw_signature

from stepwrit.digest import b64u
from stepwrit.jws import VerifyKey
from stepwrit_broker.approvals.keys import check, jwk_of, key_of, read_key
from stepwrit_broker.core.authenticator import key_id
from stepwrit_broker.core.errors import Malformed, Unproven
from stepwrit_broker.core.statement import APPROVAL, approval_statement, read_statement, request_statement

VECTORS = Path("tests/vectors/sshsig")
SAID = approval_statement(issuer="https://b.example", approval="apr_1", key="aut_1", attempt="n", digest="d")
P = 2**255 - 19


def pem(key: object) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_pem_and_openssh_are_one_key(kind: str) -> None:
    line = (VECTORS / f"{kind}.pub").read_text()
    same = load_ssh_public_key(line.encode())
    kept = {
        read_key(line),
        read_key(pem(same)),
        read_key("  " + line + "\n"),
        read_key(line.rpartition(" ")[0]),
    }
    assert len(kept) == 1
    assert jwk_of(key_of(kept.pop())) == jwk_of(same)


def test_the_id_is_the_thumbprint_of_rfc_7638_and_rfc_8037() -> None:
    private = new_key("p256")
    jwk = jwk_of(private.public_key())
    assert key_id(jwk) == f"aut_{VerifyKey.from_jwk(json.loads(jwk)).thumbprint}"
    # RFC 8037 appendix A.3
    known = '{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    assert jwk_of(key_of(known)) == known
    assert key_id(known) == "aut_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_plain_signature_is_over_the_statement_itself(kind: str) -> None:
    private, other = new_key(kind), new_key(kind)
    jwk, good = jwk_of(private.public_key()), raw_signature(private, SAID)
    check(jwk, APPROVAL, SAID, good)
    for said, signature, whose in (
        (SAID[:-1], good, jwk),
        (SAID, good[:-1], jwk),
        (SAID, good + b"\0", jwk),
        (SAID, bytes(64), jwk),
        (SAID, b"", jwk),
        (SAID, good, jwk_of(other.public_key())),
        (SAID, raw_signature(private, hashlib.sha256(SAID).digest()), jwk),
    ):
        with pytest.raises(Unproven, match="does not hold"):
            check(whose, APPROVAL, said, signature)


def _security_key() -> str:
    """A key of a FIDO token: it signs with its application, flags and counter around what is signed."""
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    parts = (b"sk-ssh-ed25519@openssh.com", raw, b"ssh:")
    blob = b"".join(len(each).to_bytes(4) + each for each in parts)
    return f"sk-ssh-ed25519@openssh.com {b64encode(blob).decode()} bob"


def _private() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


NOT_TAKEN = {
    "nothing": "",
    "text": "hello",
    "RSA": (VECTORS / "rsa.pub").read_text(),
    "RSA as PEM": pem(rsa.generate_private_key(65537, 2048).public_key()),
    "P-384": (VECTORS / "p384.pub").read_text(),
    "secp256k1": pem(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "a key for agreement": pem(x25519.X25519PrivateKey.generate().public_key()),
    "two keys": (VECTORS / "ed25519.pub").read_text() * 2,
    "two PEM keys": pem(new_key().public_key()) * 2,
    "an SSH certificate": "ssh-ed25519-cert-v01@openssh.com AAAA",
    "a security key": _security_key(),
    "an X.509 certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    "what is not ASCII": "ssh-ed25519 ÄÄÄÄ",
    "what is long": "ssh-ed25519 AAAA " + "x" * 5000,
}


@pytest.mark.parametrize("which", NOT_TAKEN)
def test_what_is_not_taken_is_told_what_would_be(which: str) -> None:
    with pytest.raises(Malformed, match="Ed25519 or P-256"):
        read_key(NOT_TAKEN[which])


def test_a_private_key_is_sent_back() -> None:
    with pytest.raises(Malformed, match="private key: keep it"):
        read_key(_private())


def _small(y: int, sign: int = 0) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes((y | sign << 255).to_bytes(32, "little"))


def test_a_point_of_small_order_is_nobodys_key() -> None:
    """`identity ‖ 0` is a signature "by" the neutral element over everything: such a key binds nobody."""
    neutral, signature = _small(1), (1).to_bytes(32, "little") + bytes(32)
    neutral.verify(signature, b"anything at all")
    ys = [0, 1, P - 1, P, P + 1]
    ys += [
        int.from_bytes(bytes.fromhex(each), "little")
        for each in (
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        )
    ]
    for y in ys:
        for sign in (0, 1):
            with pytest.raises(ValueError, match="small order"):
                jwk_of(_small(y, sign))


@pytest.mark.parametrize(
    "jwk",
    [
        "{}", "[]", "x", '{"crv":"Ed25519","kty":"OKP"}', '{"crv":"P-256","kty":"EC","x":"AA"}',
        '{"crv":"P-256","kty":"EC","x":"AA","y":"AA"}', '{"kty":"OKP","crv":"Ed25519","x":"AA"}',
        '{"crv":"Ed25519","kty":"OKP","x":"AA"}', '{"crv":"P-384","kty":"EC","x":"AA","y":"AA"}',
    ],
)  # fmt: skip
def test_what_is_not_as_kept_verifies_nothing(jwk: str) -> None:
    with pytest.raises(Unproven):
        check(jwk, APPROVAL, SAID, bytes(64))


# --- statements


def test_a_statement_is_read_for_its_own_purpose_alone() -> None:
    asked = request_statement(
        key="aut_1", method="GET", url="https://b.example/x", body="", at=1, jti="j" * 16, nonce="n"
    )
    assert read_statement(APPROVAL, SAID)["digest"] == "d"
    assert read_statement("request.stepwrit.dev", asked)["method"] == "GET"
    for purpose, said in ((APPROVAL, asked), ("request.stepwrit.dev", SAID)):
        with pytest.raises(ValueError, match="another purpose"):
            read_statement(purpose, said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s + b"\n", lambda s: s.replace(b" v1\n", b" v2\n"), lambda s: s.replace(b":", b": ", 1),
        lambda s: s.replace(b'"approval"', b'"\\u0061pproval"'), lambda s: s[:-1], lambda s: b"",
        lambda s: s.partition(b"\n")[0] + b"\n[]", lambda s: s.partition(b"\n")[0] + b"\n\xff",
        lambda s: s.replace(b"{", b'{"digest":"d",', 1),
    ],
)  # fmt: skip
def test_a_statement_has_one_spelling(change: object) -> None:
    read_statement(APPROVAL, SAID)
    with pytest.raises(ValueError, match=r"purpose|canonical|meaning"):
        read_statement(APPROVAL, change(SAID))  # type: ignore[operator]


def test_no_statement_is_the_signing_input_of_a_jws() -> None:
    """Those are base64url and one dot (RFC 7515 section 5.1)."""
    assert b" " in SAID
    assert b64u(SAID) != SAID.decode()

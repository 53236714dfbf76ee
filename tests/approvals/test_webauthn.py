"""Passkeys: what is accepted, what is not, and that an auditor needs nothing but the evidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jwt import PyJWK
from tests.fakes.passkey import BS, UP, UV, Kind, SoftPasskey

from stepwrit.digest import b64u, unb64u
from stepwrit_broker.approvals.cose import cose_of, jwk_text
from stepwrit_broker.approvals.webauthn import SAID_MAX, WebAuthn
from stepwrit_broker.core.errors import Unproven

ISSUER = "https://broker.example:8444"
CHALLENGE, OTHER = b"c" * 32, b"o" * 32
KINDS: tuple[Kind, ...] = ("ES256", "EdDSA", "RS256")


@pytest.fixture
def rp() -> WebAuthn:
    return WebAuthn(ISSUER)


def passkey(rp: WebAuthn, **how: Any) -> SoftPasskey:
    return SoftPasskey(origin=rp.origin, rp_id=rp.rp_id, **how)


def creation(rp: WebAuthn, challenge: bytes = CHALLENGE) -> dict[str, Any]:
    return rp.creation(challenge, handle=b"per_1", name="alice", known=())


def made(rp: WebAuthn, key: SoftPasskey) -> str:
    return rp.registered(key.make(creation(rp)), CHALLENGE).public_key


@pytest.mark.parametrize("kind", KINDS)
def test_a_passkey_is_registered_and_signs(rp: WebAuthn, kind: Kind) -> None:
    key = passkey(rp, kind=kind, counter=6)
    new = rp.registered(key.make(creation(rp)), CHALLENGE)
    assert (new.credential, new.sign_count) == (key.id, 6)
    said = key.sign(rp.request(CHALLENGE, [key.id]))
    assert rp.credential(said) == key.id
    shown = rp.asserted(said, CHALLENGE, new.public_key)
    assert (shown.credential, shown.sign_count, shown.handle) == (key.id, 7, b"per_1")


@pytest.mark.parametrize("kind", KINDS)
def test_the_evidence_alone_verifies(rp: WebAuthn, kind: Kind) -> None:
    """With the public key in it and the standard library of an auditor: no code of ours."""
    key = passkey(rp, kind=kind)
    public = made(rp, key)
    told = rp.asserted(key.sign(rp.request(CHALLENGE, [])), CHALLENGE, public).evidence
    client, data, signature = (
        unb64u(str(told[name])) for name in ("client_data", "authenticator_data", "signature")
    )
    assert unb64u(json.loads(client)["challenge"]) == CHALLENGE
    signed = data + hashlib.sha256(client).digest()
    assert told["public_key"] == public
    verify(PyJWK(json.loads(public) | {"alg": kind}).key, signature, signed)


def verify(key: Any, signature: bytes, signed: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.verify(signature, signed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_has_one_text(rp: WebAuthn, kind: Kind) -> None:
    """RFC 7638: required members only, in order, so that a fingerprint of the text is one of the key."""
    text = made(rp, passkey(rp, kind=kind))
    assert text == json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True)
    assert jwk_text(cose_of(text)) == text


@pytest.mark.parametrize("zeros", [1, 40])
def test_a_key_is_the_same_however_its_numbers_are_padded(rp: WebAuthn, zeros: int) -> None:
    """Otherwise one key would have many fingerprints, and could be registered for many persons."""
    text = made(rp, passkey(rp))
    read = cbor2.loads(cose_of(text))
    assert jwk_text(cbor2.dumps(read)) == text
    padded = {name: bytes(zeros) + value if name in (-2, -3) else value for name, value in read.items()}
    assert jwk_text(cbor2.dumps(padded)) == text


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20])
def test_a_key_that_proves_nothing_is_none(y: int) -> None:
    """Points of small order: anybody can sign for them."""
    good = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    key = {1: 1, 3: -8, -1: 6}
    assert jwk_text(cbor2.dumps({**key, -2: good}))
    with pytest.raises(ValueError, match="small order"):
        jwk_text(cbor2.dumps({**key, -2: y.to_bytes(32, "little")}))


def lies(**changes: Any) -> Callable[[SoftPasskey], None]:
    def change(key: SoftPasskey) -> None:
        for name, value in changes.items():
            setattr(key, name, value)

    return change


LIES: dict[str, Callable[[SoftPasskey], None]] = {
    "another origin": lies(origin="https://evil.example"),
    "a subdomain": lies(origin="https://x.broker.example:8444"),
    "another port": lies(origin="https://broker.example"),
    "without TLS": lies(origin="http://broker.example:8444"),
    "another RP": lies(rp_id="example"),
    "no user verification": lies(flags=UP),
    "no user presence": lies(flags=UV),
    "backed up but not eligible": lies(flags=UP | UV | BS),
    "a frame in another page": lies(client={"crossOrigin": True}),
    "a frame in a named page": lies(client={"topOrigin": "https://evil.example"}),
    "another challenge": lies(client={"challenge": "b28"}),
    "another type": lies(client={"type": "payment.get"}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_assertion_that_is_not_for_us_is_refused(rp: WebAuthn, lie: Callable[[SoftPasskey], None]) -> None:
    key = passkey(rp)
    public = made(rp, key)
    rp.asserted(key.sign(rp.request(CHALLENGE, [])), CHALLENGE, public)
    lie(key)
    with pytest.raises(Unproven) as no:
        rp.asserted(key.sign(rp.request(CHALLENGE, [])), CHALLENGE, public)
    assert no.value.code == "invalid_proof"


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_registration_that_is_not_for_us_is_refused(
    rp: WebAuthn, lie: Callable[[SoftPasskey], None]
) -> None:
    key = passkey(rp)
    rp.registered(key.make(creation(rp)), CHALLENGE)
    lie(key)
    with pytest.raises(Unproven):
        rp.registered(key.make(creation(rp)), CHALLENGE)


def test_what_was_signed_for_another_challenge_or_by_another_key_is_refused(rp: WebAuthn) -> None:
    key, other = passkey(rp), passkey(rp)
    public, others = made(rp, key), made(rp, other)
    said = key.sign(rp.request(CHALLENGE, []))
    rp.asserted(said, CHALLENGE, public)
    for challenge, by in ((OTHER, public), (CHALLENGE, others)):
        with pytest.raises(Unproven):
            rp.asserted(said, challenge, by)


def test_a_registration_is_no_assertion_and_an_assertion_no_registration(rp: WebAuthn) -> None:
    key = passkey(rp)
    new = key.make(creation(rp))
    public, said = rp.registered(new, CHALLENGE).public_key, key.sign(rp.request(CHALLENGE, []))
    rp.asserted(said, CHALLENGE, public)
    with pytest.raises(Unproven):
        rp.asserted(new, CHALLENGE, public)
    with pytest.raises(Unproven):
        rp.registered(said, CHALLENGE)


def reattested(said: str, fmt: str, statement: dict[str, Any]) -> str:
    read = json.loads(said)
    attested = cbor2.loads(unb64u(read["response"]["attestationObject"]))
    made = b64u(cbor2.dumps(attested | {"fmt": fmt, "attStmt": statement}))
    return json.dumps(read | {"response": read["response"] | {"attestationObject": made}})


@pytest.mark.parametrize(
    ("fmt", "statement"),
    [
        ("tpm", {"ver": "2.0", "alg": -7, "sig": b"s", "x5c": [b"c"], "certInfo": b"i", "pubArea": b"p"}),
        ("packed", {"alg": -7, "sig": b"s", "x5c": [b"certificate"]}),
        ("android-safetynet", {"ver": "1", "response": b"r"}),
    ],
)
def test_an_attestation_by_somebody_else_is_not_even_read(
    rp: WebAuthn, fmt: str, statement: dict[str, Any]
) -> None:
    said = passkey(rp).make(creation(rp))
    rp.registered(said, CHALLENGE)
    with pytest.raises(Unproven) as no:
        rp.registered(reattested(said, fmt, statement), CHALLENGE)
    assert "somebody else" in str(no.value.__cause__)


def test_a_credential_id_has_an_end(rp: WebAuthn) -> None:
    rp.registered(passkey(rp, credential=b"c" * 1023).make(creation(rp)), CHALLENGE)
    with pytest.raises(Unproven):
        rp.registered(passkey(rp, credential=b"c" * 1024).make(creation(rp)), CHALLENGE)


def broken(said: str, **members: Any) -> str:
    read = json.loads(said)
    return json.dumps(read | {"response": read["response"] | members})


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 20_000,
        '"x"' * SAID_MAX,
        '{"id": 5}',
        '{"id": "a", "rawId": "b", "type": "public-key", "response": {}}',
    ],
)
def test_what_is_no_answer_is_refused(rp: WebAuthn, bad: str) -> None:
    for ask in (
        lambda: rp.credential(bad),
        lambda: rp.asserted(bad, CHALLENGE, made(rp, passkey(rp))),
        lambda: rp.registered(bad, CHALLENGE),
    ):
        with pytest.raises(Unproven):
            ask()


@pytest.mark.parametrize("member", ["clientDataJSON", "authenticatorData", "signature"])
@pytest.mark.parametrize("value", ["", "AAAA", "not base64url!", None, 7])
def test_a_broken_member_is_refused(rp: WebAuthn, member: str, value: object) -> None:
    key = passkey(rp)
    public, said = made(rp, key), key.sign(rp.request(CHALLENGE, []))
    rp.asserted(said, CHALLENGE, public)
    with pytest.raises(Unproven):
        rp.asserted(broken(said, **{member: value}), CHALLENGE, public)


def test_what_browsers_are_asked_for(rp: WebAuthn) -> None:
    asked = rp.request(CHALLENGE, ["AQID"])
    assert asked["rpId"] == "broker.example"
    assert asked["userVerification"] == "required"
    assert [each["id"] for each in asked["allowCredentials"]] == ["AQID"]
    new = rp.creation(CHALLENGE, handle=b"h", name="alice", known=["AQID"])
    assert new["attestation"] == "none"
    assert new["authenticatorSelection"]["residentKey"] == "required"
    assert new["authenticatorSelection"]["userVerification"] == "required"
    assert [each["alg"] for each in new["pubKeyCredParams"]] == [-7, -8, -257]
    assert [each["id"] for each in new["excludeCredentials"]] == ["AQID"]


@pytest.mark.parametrize(
    ("issuer", "origin", "rp_id"),
    [
        ("https://Broker.Example:443/", "https://broker.example", "broker.example"),
        ("https://localhost:8444", "https://localhost:8444", "localhost"),
    ],
)
def test_the_issuer_names_origin_and_rp(issuer: str, origin: str, rp_id: str) -> None:
    rp = WebAuthn(issuer)
    assert (rp.origin, rp.rp_id) == (origin, rp_id)


@pytest.mark.parametrize("bits", [1024, 8192])
def test_rsa_keys_that_are_too_short_or_too_long_are_refused(bits: int) -> None:
    n = b64(bits)
    with pytest.raises(ValueError, match="2048"):
        jwk_text(cose_of(json.dumps({"kty": "RSA", "n": n, "e": "AQAB"})))
    assert jwk_text(cose_of(json.dumps({"kty": "RSA", "n": b64(2048), "e": "AQAB"})))


def b64(bits: int) -> str:
    return b64u(((1 << bits) - 1).to_bytes(bits // 8))

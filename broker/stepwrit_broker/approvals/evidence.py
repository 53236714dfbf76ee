"""A signature in the ledger, verified later and elsewhere: with public keys alone, and nothing of the broker.

One function for each method. Each takes the `evidence` of an `approval.signed` entry and the digest of what
was to be signed, and passes or says why not. It shares no code with what took the signature when it was
given, as far as that is the evidence's own form: a fault there is found here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from stepwrit.digest import DigestError, b64u, body_digest, normalise_url, parse_json, unb64u
from stepwrit_broker.approvals.keys import check as check_signature
from stepwrit_broker.approvals.keys import key_of
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.statement import APPROVAL, read_statement

Evidence = Mapping[str, object]
UP, UV = 0x01, 0x04  # Web Authentication Level 3, section 6.1
ALGORITHMS: Final = ("ES256", "ES384", "EdDSA", "RS256", "PS256")


class DoesNotHold(Exception):  # noqa: N818  reads as a verdict
    """The evidence does not prove that this was signed. `str()` says why."""


def check_webauthn(evidence: Evidence, digest: str, issuer: str | None) -> str:
    """Web Authentication Level 3, section 7.2: challenge, type, origin, RP ID, user verification, signature.

    issuer: the broker's URL, None to take the origin as it is. Answers the origin. Raises DoesNotHold.
    """
    client_data, data = _bytes(evidence, "client_data"), _bytes(evidence, "authenticator_data")
    nonce = _bytes(evidence, "nonce")
    client = _json(client_data)
    if client.get("type") != "webauthn.get" or client.get("crossOrigin") or "topOrigin" in client:
        raise DoesNotHold("the browser was asked for something else, or from within another page")
    if client.get("challenge") != challenge(nonce, digest):
        raise DoesNotHold("the passkey signed another challenge than that of this digest")
    origin = _origin(str(client.get("origin")), issuer)
    if len(data) < 37 or data[:32] != hashlib.sha256((urlsplit(origin).hostname or "").encode()).digest():
        raise DoesNotHold("the passkey answered for another site")
    if data[32] & (UP | UV) != UP | UV:
        raise DoesNotHold("nobody was verified at the authenticator")
    _verify(_text(evidence, "public_key"), _bytes(evidence, "signature"), data + _sha256(client_data))
    return origin


def challenge(nonce: bytes, digest: str) -> str:
    """What is signed in one attempt: base64url SHA-256 of its nonce and the approval's digest."""
    return b64u(_sha256(nonce + digest.encode()))


def _origin(origin: str, issuer: str | None) -> str:
    try:
        parts = urlsplit(normalise_url(issuer or origin))
    except DigestError:
        raise DoesNotHold("it was signed on no page") from None
    if origin != f"{parts.scheme}://{parts.netloc}":
        raise DoesNotHold(f"it was signed on a page of {origin}")
    return origin


def _verify(public_key: str, signature: bytes, signed: bytes) -> None:
    try:
        members = json.loads(public_key)
        if isinstance(members, dict) and members.get("kty") == "RSA":
            numbers = (int.from_bytes(unb64u(str(members[name]))) for name in ("e", "n"))
            rsa.RSAPublicNumbers(*numbers).public_key().verify(
                signature, signed, padding.PKCS1v15(), SHA256()
            )
            return
        key = key_of(public_key)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            key.verify(signature, signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError, KeyError, DigestError):
        raise DoesNotHold("the signature is not of this key over this") from None


def check_key(
    evidence: Evidence, digest: str, *, approval: str, authenticator: str, issuer: str | None
) -> str:
    """A detached signature: over a statement that names this approval, this key and this digest.

    issuer: the broker's URL, None to take the statement's. Answers the issuer. Raises DoesNotHold.
    """
    said = _text(evidence, "statement").encode()
    try:
        members = read_statement(APPROVAL, said)
    except ValueError as bad:
        raise DoesNotHold(f"the statement is {bad}") from None
    meant = {"approval": approval, "key": authenticator, "digest": digest}
    wrong = [name for name, value in meant.items() if members.get(name) != value]
    if wrong:
        raise DoesNotHold(f"the statement names another {wrong[0]}")
    if issuer is not None and members.get("issuer") != issuer:
        raise DoesNotHold("the statement was made for another broker")
    try:
        check_signature(_text(evidence, "public_key"), APPROVAL, said, _bytes(evidence, "signature"))
    except Unproven as no:
        raise DoesNotHold(no.reason) from None
    return str(members.get("issuer"))


def check_oidc(evidence: Evidence, digest: str) -> None:
    """That the claim which the ID token was to carry is that of this digest. Raises DoesNotHold.

    It says nothing of the issuer: that takes the ID token, `check_id_token`.
    """
    if _text(evidence, "claim") != challenge(_bytes(evidence, "nonce"), digest):
        raise DoesNotHold("the nonce of the sign-in is not that of this digest")


def check_id_token(evidence: Evidence, token: str) -> None:
    """The kept ID token: the one in the entry, signed by the key in the entry, saying what the entry says.

    Its life is over by now, and does not count. Raises DoesNotHold.
    """
    if body_digest(token.encode()) != _text(evidence, "id_token"):
        raise DoesNotHold("the kept ID token is not the one that was shown")
    claims = _claims(token, evidence.get("key"))
    said = claims.get("aud")
    audience = said if isinstance(said, list) else [said]
    if claims.get("nonce") != evidence.get("claim") or _text(evidence, "client_id") not in audience:
        raise DoesNotHold("the ID token is of another sign-in")
    for name, claim in (("issuer", "iss"), ("acr", "acr"), ("auth_time", "auth_time")):
        if evidence.get(name) != claims.get(claim):
            raise DoesNotHold(f"the ID token has another {claim}")


def _claims(token: str, key: object) -> dict[str, object]:
    if not isinstance(key, Mapping):
        raise DoesNotHold("the issuer's key is not in the entry")
    try:
        jwk = jwt.PyJWK.from_dict(dict(cast("Mapping[str, object]", key)))
        read: dict[str, object] = jwt.decode(
            token,
            jwk.key,
            algorithms=list(ALGORITHMS),
            options={  # as it was: the token's times and audience were judged when it was taken
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_aud": False,
                "verify_iss": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise DoesNotHold("the ID token is not signed by that key") from None
    return read


def _bytes(evidence: Evidence, name: str) -> bytes:
    try:
        return unb64u(_text(evidence, name))
    except DigestError:
        raise DoesNotHold(f"{name} is not base64url") from None


def _text(evidence: Evidence, name: str) -> str:
    value = evidence.get(name)
    if not isinstance(value, str):
        raise DoesNotHold(f"the evidence has no {name}")
    return value


def _json(data: bytes) -> Mapping[str, object]:
    try:
        read = parse_json(data)
    except DigestError:
        raise DoesNotHold("the client data are no JSON of one meaning") from None
    return cast("Mapping[str, object]", read) if isinstance(read, dict) else {}


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

"""Passkeys' public keys: from COSE (RFC 9053) to the one JWK text (RFC 7638) that is kept, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography, encode_cbor
from webauthn.helpers.cose import COSECRV, COSEKTY, COSEAlgorithmIdentifier, COSEKey
from webauthn.helpers.decode_credential_public_key import (
    DecodedEC2PublicKey,
    DecodedOKPPublicKey,
    DecodedRSAPublicKey,
)

from stepwrit.digest import b64u, unb64u
from stepwrit_broker.approvals.keys import jwk_of

ES256: Final = COSEAlgorithmIdentifier.ECDSA_SHA_256
EDDSA: Final = COSEAlgorithmIdentifier.EDDSA
RS256: Final = COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256
ALGORITHMS: Final = (ES256, EDDSA, RS256)
"""What a passkey may sign with; each key type has exactly one, so that a JWK alone says how to verify."""
RSA_BITS: Final = range(2048, 4097)


def jwk_text(cose: bytes) -> str:
    """The key's required members as RFC 7638 writes them. Raises ValueError for what is not taken."""
    key = decode_credential_public_key(cose)
    number = decoded_public_key_to_cryptography(key)  # on its curve, of a known algorithm
    if isinstance(key, DecodedEC2PublicKey) and key.alg == ES256 and key.crv == COSECRV.P256:
        return jwk_of(number)  # of the point, not of the bytes it came in: one key has one text
    if isinstance(key, DecodedOKPPublicKey) and key.alg == EDDSA and key.crv == COSECRV.ED25519:
        return jwk_of(number)
    if isinstance(key, DecodedRSAPublicKey) and key.alg == RS256 and _bits(key.n) in RSA_BITS:
        rsa = {"e": b64u(key.e.lstrip(b"\0")), "kty": "RSA", "n": b64u(key.n.lstrip(b"\0"))}
        return json.dumps(rsa, separators=(",", ":"), sort_keys=True)
    raise ValueError("a key of ES256, EdDSA or RS256 (2048 to 4096 bits) is needed")


def _bits(number: bytes) -> int:
    return int.from_bytes(number).bit_length()


def cose_of(public_key: str) -> bytes:
    """The COSE key of a JWK text that `jwk_text` made."""
    jwk: Mapping[str, str] = json.loads(public_key)
    if jwk["kty"] == "EC":
        return _cose(
            COSEKTY.EC2, ES256, {COSEKey.CRV: COSECRV.P256, COSEKey.X: jwk["x"], COSEKey.Y: jwk["y"]}
        )
    if jwk["kty"] == "OKP":
        return _cose(COSEKTY.OKP, EDDSA, {COSEKey.CRV: COSECRV.ED25519, COSEKey.X: jwk["x"]})
    return _cose(COSEKTY.RSA, RS256, {COSEKey.N: jwk["n"], COSEKey.E: jwk["e"]})


def _cose(kty: COSEKTY, alg: COSEAlgorithmIdentifier, members: Mapping[COSEKey, COSECRV | str]) -> bytes:
    told = {
        int(name): unb64u(value) if isinstance(value, str) else int(value) for name, value in members.items()
    }
    return encode_cbor({int(COSEKey.KTY): int(kty), int(COSEKey.ALG): int(alg), **told})

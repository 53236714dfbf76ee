"""Passkeys: the `Passkeys` port on py_webauthn (Web Authentication Level 3, sections 7.1 and 7.2).

User verification is always demanded, the origin is the broker's own page and nothing else, attestation is
not asked for: who a passkey belongs to is an operator's word, not a manufacturer's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import webauthn
from webauthn.helpers import options_to_json_dict, parse_attestation_object
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AttestationFormat,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from stepwrit.digest import b64u, normalise_url, unb64u
from stepwrit_broker.approvals.cose import ALGORITHMS, cose_of, jwk_text
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.ports_approval import Assertion, NewPasskey

RP_NAME: Final = "Stepwrit"
TIMEOUT_MS: Final = 120_000
SAID_MAX: Final = 32_768  # characters of a browser's answer
CREDENTIAL_MAX: Final = 1023  # bytes (section 5.1.4.1)
_ATTESTED: Final = (AttestationFormat.NONE, AttestationFormat.PACKED)  # packed: its own key attests to itself
T = TypeVar("T")


class WebAuthn:
    """The `Passkeys` port. issuer: the broker's URL; its host is the RP ID."""

    def __init__(self, issuer: str) -> None:
        parts = urlsplit(normalise_url(issuer))
        self.origin: Final = f"{parts.scheme}://{parts.netloc}"
        self.rp_id: Final = parts.hostname or ""

    def request(self, challenge: bytes, allowed: Iterable[str]) -> dict[str, Any]:
        """PublicKeyCredentialRequestOptionsJSON (section 5.1.10)."""
        options = webauthn.generate_authentication_options(
            rp_id=self.rp_id,
            challenge=challenge,
            timeout=TIMEOUT_MS,
            allow_credentials=_named(allowed),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return options_to_json_dict(options)

    def creation(self, challenge: bytes, *, handle: bytes, name: str, known: Iterable[str]) -> dict[str, Any]:
        """PublicKeyCredentialCreationOptionsJSON (section 5.1.9)."""
        options = webauthn.generate_registration_options(
            rp_id=self.rp_id,
            rp_name=RP_NAME,
            user_id=handle,
            user_name=name,
            user_display_name=name,
            challenge=challenge,
            timeout=TIMEOUT_MS,
            attestation=AttestationConveyancePreference.NONE,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=_named(known),
            supported_pub_key_algs=list(ALGORITHMS),
        )
        return options_to_json_dict(options)

    def credential(self, said: str) -> str:
        """The credential id that an assertion names, base64url. Raises Unproven(`invalid_proof`)."""
        return _tried(lambda: b64u(unb64u(_read(said)["id"])))

    def asserted(self, said: str, challenge: bytes, public_key: str) -> Assertion:
        """Section 7.2, but for the counter. Raises Unproven(`invalid_proof`)."""
        return _tried(lambda: self._asserted(_read(said), challenge, public_key))

    def _asserted(self, said: dict[str, Any], challenge: bytes, public_key: str) -> Assertion:
        verified = webauthn.verify_authentication_response(
            credential=said,
            expected_challenge=challenge,
            expected_rp_id=self.rp_id,
            expected_origin=self.origin,
            credential_public_key=cose_of(public_key),
            credential_current_sign_count=0,  # compared where it is stored
            require_user_verification=True,
        )
        response: Mapping[str, str] = said["response"]
        client_data = _check_own_frame(response["clientDataJSON"])
        handle = response.get("userHandle")
        return Assertion(
            credential=b64u(verified.credential_id),
            sign_count=verified.new_sign_count,
            handle=None if handle is None else unb64u(handle),
            evidence={
                "client_data": b64u(client_data),
                "authenticator_data": b64u(unb64u(response["authenticatorData"])),
                "signature": b64u(unb64u(response["signature"])),
                "public_key": public_key,
            },
        )

    def registered(self, said: str, challenge: bytes) -> NewPasskey:
        """Section 7.1. Raises Unproven(`invalid_proof`)."""
        return _tried(lambda: self._registered(_read(said), challenge))

    def _registered(self, said: dict[str, Any], challenge: bytes) -> NewPasskey:
        _check_own_frame(said["response"]["clientDataJSON"])
        attested = parse_attestation_object(unb64u(said["response"]["attestationObject"]))
        if attested.fmt not in _ATTESTED or attested.att_stmt.x5c:
            raise ValueError("an attestation by somebody else")
        verified = webauthn.verify_registration_response(
            credential=said,
            expected_challenge=challenge,
            expected_rp_id=self.rp_id,
            expected_origin=self.origin,
            require_user_verification=True,
            supported_pub_key_algs=list(ALGORITHMS),
        )
        if len(verified.credential_id) > CREDENTIAL_MAX:
            raise ValueError("a credential id that is too long")
        return NewPasskey(
            credential=b64u(verified.credential_id),
            public_key=jwk_text(verified.credential_public_key),
            sign_count=verified.sign_count,
        )


def _named(credentials: Iterable[str]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=unb64u(each)) for each in credentials]


def _read(said: str) -> dict[str, Any]:
    if len(said) > SAID_MAX:
        raise ValueError("too long")
    read: dict[str, Any] = json.loads(said)
    return read


def _check_own_frame(client_data: str) -> bytes:
    """The client data, of our own page in a window of its own (section 7.2, steps 12 to 14)."""
    raw = unb64u(client_data)
    read = json.loads(raw)
    if read.get("crossOrigin") or "topOrigin" in read:
        raise ValueError("from a frame in another page")
    return raw


def _tried(verify: Callable[[], T]) -> T:
    """Whatever a parser raises on what a stranger sent means no."""
    try:
        return verify()
    except Exception as bad:
        raise Unproven(
            "invalid_proof",
            "the passkey's answer was not accepted; begin again",
            rule=f"webauthn {type(bad).__name__}",
        ) from bad

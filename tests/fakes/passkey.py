"""A passkey in software: makes keys and signs as an authenticator and a browser do, and lies on request."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from stepwrit.digest import b64u, unb64u

Kind = Literal["ES256", "EdDSA", "RS256"]
UP, UV, BE, BS, AT = 1, 4, 8, 16, 64


@dataclass(kw_only=True)
class SoftPasskey:
    """One credential. Its fields are what it tells; change one to make it lie. counter: None has none."""

    origin: str
    rp_id: str
    kind: Kind = "ES256"
    flags: int = UP | UV
    counter: int | None = 0
    credential: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    handle: bytes | None = None
    client: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key: Any = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
        }[self.kind]()

    @property
    def id(self) -> str:
        return b64u(self.credential)

    def make(self, options: dict[str, Any]) -> str:
        """What `navigator.credentials.create` answers, as JSON."""
        self.handle = unb64u(options["user"]["id"])
        data = self._data(self.flags | AT) + bytes(16) + len(self.credential).to_bytes(2) + self.credential
        attested = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data + cbor2.dumps(self._cose())})
        client = self._client("webauthn.create", options["challenge"])
        return self._said({"clientDataJSON": b64u(client), "attestationObject": b64u(attested)})

    def sign(self, options: dict[str, Any]) -> str:
        """What `navigator.credentials.get` answers, as JSON."""
        if self.counter is not None:
            self.counter += 1
        client, data = self._client("webauthn.get", options["challenge"]), self._data(self.flags)
        response = {
            "clientDataJSON": b64u(client),
            "authenticatorData": b64u(data),
            "signature": b64u(self._signature(data + hashlib.sha256(client).digest())),
        }
        if self.handle is not None:
            response["userHandle"] = b64u(self.handle)
        return self._said(response)

    def _said(self, response: dict[str, str]) -> str:
        return json.dumps({"id": self.id, "rawId": self.id, "type": "public-key", "response": response})

    def _client(self, kind: str, challenge: str) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(said | self.client).encode()

    def _data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + (self.counter or 0).to_bytes(4)

    def _signature(self, data: bytes) -> bytes:
        if self.kind == "ES256":
            return self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        if self.kind == "RS256":
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(data)

    def _cose(self) -> dict[int, Any]:
        public = self.key.public_key()
        if self.kind == "EdDSA":
            return {1: 1, 3: -8, -1: 6, -2: public.public_bytes_raw()}
        numbers = public.public_numbers()
        if self.kind == "RS256":
            return {1: 3, 3: -257, -1: numbers.n.to_bytes(256), -2: numbers.e.to_bytes(3)}
        return {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}

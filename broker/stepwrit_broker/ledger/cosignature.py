"""Cosignatures of witnesses on checkpoints (C2SP tlog-cosignature, `cosignature/v1`: Ed25519, type 0x04).

The signature is over a time and the checkpoint's whole text: "at that time this was the largest consistent
tree of that log that I had seen". A witness's key is used for nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stepwrit_broker.ledger.notes import (
    NoteRefused,
    check_id,
    check_name,
    key_id,
    signature_lines,
    split_vkey,
)

COSIGNATURE: Final = b"\x04"
MAX_TIME: Final = 253_402_300_799  # the end of the year 9999: a date that can be shown
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignatureVerifier:
    """A witness's public key under its name."""

    name: str
    public: bytes
    key_id: bytes = field(init=False)
    _key: Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public) != 32:
            _refuse("an Ed25519 public key is 32 bytes")
        object.__setattr__(self, "key_id", key_id(self.name, self.public, COSIGNATURE))
        object.__setattr__(self, "_key", Ed25519PublicKey.from_public_bytes(self.public))

    @property
    def vkey(self) -> str:
        """The key as one line that may be published: `name+id+key`."""
        key = base64.b64encode(COSIGNATURE + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def verify(self, text: str, blob: bytes) -> int:
        """When this key cosigned `text`, seconds since the epoch; NoteRefused if `blob` does not show it.

        blob: what follows the key ID in a signature line.
        """
        at, signature = int.from_bytes(blob[:8], "big"), blob[8:]
        if len(signature) != _SIGNATURE_BYTES or at > MAX_TIME:
            _refuse(f"the cosignature of {self.name} is not in the format")
        try:
            self._key.verify(signature, message(text, at))
        except InvalidSignature:
            _refuse(f"the cosignature of {self.name} does not verify")
        return at


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignatureSigner:
    """A witness's private key under its name; its secret is in no repr."""

    verifier: CosignatureVerifier
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> CosignatureSigner:
        """The key of these 32 secret bytes."""
        key = Ed25519PrivateKey.from_private_bytes(seed)
        verifier = CosignatureVerifier(name=name, public=key.public_key().public_bytes_raw())
        return cls(verifier=verifier, _key=key)

    def line(self, text: str, at: int) -> str:
        """The signature line over a checkpoint's text, with its newline. at: seconds since the epoch."""
        blob = self.verifier.key_id + at.to_bytes(8, "big") + self._key.sign(message(text, at))
        return f"— {self.verifier.name} {base64.b64encode(blob).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A verified cosignature: whose, when (seconds since the epoch), and its line with the newline."""

    by: CosignatureVerifier
    at: int
    line: str


def message(text: str, at: int) -> bytes:
    """What is signed."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def parse_witness_vkey(unverified: str) -> CosignatureVerifier:
    """The key in a witness's `name+id+key` line.

    NoteRefused for a key of another type, such as that of a log, and for a wrong key ID.
    """
    name, declared, blob = split_vkey(unverified)
    if blob[:1] != COSIGNATURE:
        _refuse("not a witness's key: its type is not that of Ed25519 cosignatures (0x04)")
    verifier = CosignatureVerifier(name=name, public=blob[1:])
    check_id(verifier.key_id, declared)
    return verifier


def witness_secret(name: str, seed: bytes) -> str:
    """The line of a witness's key file: `PRIVATE+KEY+name+id+seed`, with the type of cosignatures."""
    own = CosignatureSigner.from_seed(name, seed).verifier.key_id.hex()
    return f"PRIVATE+KEY+{name}+{own}+{base64.b64encode(COSIGNATURE + seed).decode()}"


def parse_witness_secret(unverified: str) -> CosignatureSigner:
    """The key in such a line; the error never quotes it."""
    if not unverified.startswith("PRIVATE+KEY+"):
        _refuse("not a private key line")
    name, declared, blob = split_vkey(unverified.removeprefix("PRIVATE+KEY+"))
    if blob[:1] != COSIGNATURE or len(blob) != 33:
        _refuse("not a witness's private key")
    signer = CosignatureSigner.from_seed(name, blob[1:])
    check_id(signer.verifier.key_id, declared)
    return signer


def cosigned(note: str, known: Iterable[CosignatureVerifier]) -> tuple[Cosigned, ...]:
    """The cosignatures of known witnesses in a note, one for each witness (its latest), in their order.

    Lines of unknown keys are ignored. Raises: NoteRefused when a known witness's line does not verify.
    """
    keys = {(each.name, each.key_id): each for each in known}
    text, lines = signature_lines(note)
    found: dict[tuple[str, bytes], Cosigned] = {}
    for line in lines:
        name = (line.name, line.blob[:4])
        if name in keys:
            made = Cosigned(by=keys[name], at=keys[name].verify(text, line.blob[4:]), line=line.text)
            found[name] = max(found.get(name, made), made, key=lambda each: each.at)
    return tuple(found[name] for name in keys if name in found)


def _refuse(reason: str) -> NoReturn:
    raise NoteRefused("invalid_proof", reason)

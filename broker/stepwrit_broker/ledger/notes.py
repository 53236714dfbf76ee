"""Signed notes and their keys (C2SP signed-note): Ed25519, type 0x01.

A note is text plus signature lines. Signatures of unknown keys are ignored; one bad signature of a known
key refuses the whole note; a note without a good signature of a known key is not read at all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stepwrit_broker.core.errors import Malformed

ED25519: Final = b"\x01"
MAX_SIGNATURES: Final = 100  # the format demands at least 16
MAX_NOTE_BYTES: Final = 1_000_000
_DASH: Final = "— "
_PRIVATE: Final = "PRIVATE+KEY"


class NoteRefused(Malformed):
    """A note or a key is not in the format, or is not signed as it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteVerifier:
    """A public key under a name. Name and key ID together tell keys apart."""

    name: str
    public: bytes
    key_id: bytes = field(init=False)
    _key: Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public) != 32:
            _refuse("an Ed25519 public key is 32 bytes")
        object.__setattr__(self, "key_id", key_id(self.name, self.public))
        object.__setattr__(self, "_key", Ed25519PublicKey.from_public_bytes(self.public))

    @property
    def vkey(self) -> str:
        """The key as one line that may be published: `name+id+key`."""
        return f"{self.name}+{self.key_id.hex()}+{_encode(ED25519 + self.public)}"

    def under(self, name: str) -> NoteVerifier:
        """The same key under another name (hence with another key ID)."""
        return NoteVerifier(name=name, public=self.public)

    def verify(self, text: str, signature: bytes) -> None:
        """Return if the signature is this key's over `text`, else raise NoteRefused."""
        try:
            self._key.verify(signature, text.encode())
        except InvalidSignature:
            _refuse(f"the signature of {self.name} does not verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSigner:
    """A private key under a name; its secret is in no repr."""

    verifier: NoteVerifier
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> NoteSigner:
        """The key of these 32 secret bytes."""
        if len(seed) != 32:
            _refuse("an Ed25519 seed is 32 bytes")
        key = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(verifier=NoteVerifier(name=name, public=key.public_key().public_bytes_raw()), _key=key)

    @property
    def name(self) -> str:
        """The key's name."""
        return self.verifier.name

    def under(self, name: str) -> NoteSigner:
        """The same key under another name."""
        return NoteSigner(verifier=self.verifier.under(name), _key=self._key)

    def line(self, text: str) -> str:
        """One signature line over the note's text, with its newline."""
        return f"{_DASH}{self.name} {_encode(self.verifier.key_id + self._key.sign(text.encode()))}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A verified note: the text, and the known keys that signed it."""

    text: str
    signed_by: tuple[NoteVerifier, ...]


class SignatureLine(NamedTuple):
    """One line under a note, not verified. blob: key ID and signature. text: the line with its newline."""

    name: str
    blob: bytes
    text: str


def key_id(name: str, public: bytes, kind: bytes = ED25519) -> bytes:
    """Four bytes that, with the name, tell keys apart; no protection against collisions. kind: one byte."""
    return sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def check_name(unverified: str) -> None:
    """Return if this may name a key: not empty, no spaces, no plus, no control characters."""
    if not unverified or any(c.isspace() or c == "+" or not c.isprintable() for c in unverified):
        _refuse("a key name is not empty and has no spaces and no plus")


def parse_vkey(unverified: str) -> NoteVerifier:
    """The public key in a `name+id+key` line; NoteRefused for other types and a wrong key ID."""
    name, declared, blob = split_vkey(unverified)
    verifier = NoteVerifier(name=name, public=_typed_key(blob))
    check_id(verifier.key_id, declared)
    return verifier


def parse_secret(unverified: str) -> NoteSigner:
    """The key in a `PRIVATE+KEY+name+id+seed` line; the error never quotes it."""
    prefix, rest = unverified[: len(_PRIVATE) + 1], unverified[len(_PRIVATE) + 1 :]
    if prefix != _PRIVATE + "+":
        _refuse("not a private key line")
    name, declared, blob = split_vkey(rest)
    signer = NoteSigner.from_seed(name, _typed_key(blob))
    check_id(signer.verifier.key_id, declared)
    return signer


def secret_line(name: str, seed: bytes) -> str:
    """What `parse_secret` reads; for the key file only."""
    verifier = NoteSigner.from_seed(name, seed).verifier
    return f"{_PRIVATE}+{name}+{verifier.key_id.hex()}+{_encode(ED25519 + seed)}"


def sign_note(text: str, signers: Iterable[NoteSigner]) -> str:
    """The note: text, blank line, one signature line per signer."""
    _check_text(text)
    return text + "\n" + "".join(signer.line(text) for signer in signers)


def open_note(unverified: str | bytes, known: Sequence[NoteVerifier]) -> Note:
    """The note's text if a known key signed it and no known key's signature is bad, else NoteRefused."""
    keys = {(v.name, v.key_id): v for v in known}
    if len(keys) != len(known):
        _refuse("two known keys share a name and a key ID")
    text, lines = _split(_decode(unverified))
    signed_by: dict[tuple[str, bytes], NoteVerifier] = {}
    for line in lines:
        name, blob = _parse_line(line)
        verifier = keys.get((name, blob[:4]))
        if verifier is not None:
            verifier.verify(text, blob[4:])
            signed_by[name, blob[:4]] = verifier
    if not signed_by:
        _refuse("no known key signed this note")
    return Note(text=text, signed_by=tuple(signed_by.values()))


def signature_lines(unverified: str | bytes) -> tuple[str, list[SignatureLine]]:
    """A note's text and its signature lines, none verified; NoteRefused for what is no note."""
    text, lines = _split(_decode(unverified))
    return text, [SignatureLine(*_parse_line(line), line + "\n") for line in lines]


def _decode(unverified: str | bytes) -> str:
    if len(unverified) > MAX_NOTE_BYTES:
        _refuse("the note is too long")
    try:
        return unverified.decode() if isinstance(unverified, bytes) else unverified.encode().decode()
    except UnicodeError:
        _refuse("the note is not UTF-8")


def _split(note: str) -> tuple[str, list[str]]:
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        _refuse("no signatures after a blank line")
    text += "\n"
    _check_text(text)
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        _refuse("too many signatures")
    return text, lines


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        _refuse("the text ends in a newline and has no other control character")


def _parse_line(line: str) -> tuple[str, bytes]:
    dash, name, encoded = line[:2], *line[2:].partition(" ")[::2]
    if dash != _DASH:
        _refuse("not a signature line")
    check_name(name)
    blob = _decode_base64(encoded)
    if len(blob) < 5:
        _refuse("a signature line without a signature")
    return name, blob


def split_vkey(unverified: str) -> tuple[str, str, bytes]:
    """Name, declared key ID (hexadecimal) and typed key of a `name+id+key` line, none checked yet."""
    name, _, rest = unverified.partition("+")
    declared, _, encoded = rest.partition("+")
    return name, declared, _decode_base64(encoded)


def _typed_key(blob: bytes) -> bytes:
    if blob[:1] != ED25519:
        _refuse("not a key of type Ed25519")
    return blob[1:]


def check_id(own: bytes, declared: str) -> None:
    """Return if a key's own ID is the one that its line declares (hexadecimal)."""
    if declared != own.hex():
        _refuse("the key ID does not belong to this name and key")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode_base64(unverified: str) -> bytes:
    try:
        data = base64.b64decode(unverified, validate=True)
    except ValueError:
        _refuse("not base64")
    if _encode(data) != unverified:
        _refuse("not canonical base64")
    return data


def _refuse(reason: str) -> NoReturn:
    raise NoteRefused("invalid_proof", reason)

"""Text kept unreadable in the store's file: AES-256-GCM under a key derived from the broker's secret.

The secret lies in the same store, so this hides nothing from whoever has the whole file: it keeps what
persons are to read out of searches and dumps of it. To erase a row is not to erase the medium: the sealed
bytes can stay in free pages, in the write-ahead log until it is written over, and in backups.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ports import Entropy

NONCE_BYTES: Final = 12


class AesSealer:
    """The `Sealer` port. secret: the broker's own, 32 bytes."""

    def __init__(self, secret: bytes, entropy: Entropy) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"stepwrit sealed text").derive(secret)
        self._box: Final = AESGCM(derived)
        self._entropy = entropy

    def seal(self, text: bytes, context: str) -> bytes:
        """Nonce and ciphertext."""
        nonce = self._entropy.bytes(NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, text, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises Unavailable(rule="store") for what was not sealed by us for this context."""
        try:
            return self._box.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as bad:
            raise Unavailable("unavailable", "a sealed text cannot be opened", rule="store") from bad

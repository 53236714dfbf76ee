"""What one broker may believe of another's word that came over the swift engine.

Whoever can write there can publish too. A word that brings an answer forward (this is durable) or ends what
runs is sealed with a key that only the truth's readers have; all other words only make a broker look.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from stepwrit_broker.store.fleet.seams import Told

Ends = Sequence[tuple[str, str, str, str]]
_MAC_BYTES: Final = 32


class Seal:
    """Makes and reads sealed words. secret: the fleet's own, 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"stepwrit fleet words", hashlib.sha256)

    def durable(self, epoch: str, positions: Mapping[int, int]) -> Told:
        """How far the truth is in this epoch."""
        return self._made("durable", msgspec.msgpack.encode((epoch, positions)))

    def ended(self, me: str, ended: Ends) -> Told:
        """Steps that ended durably under those who run them."""
        return self._made("ended", msgspec.msgpack.encode((me, ended)))

    def read_durable(self, told: Told) -> tuple[str, dict[int, int]] | None:
        """What `durable` made; None for anything else."""
        body = self._body(told)
        return None if body is None else msgspec.msgpack.decode(body, type=tuple[str, dict[int, int]])

    def read_ended(self, told: Told) -> tuple[str, list[tuple[str, str, str, str]]] | None:
        """What `ended` made; None for anything else."""
        body = self._body(told)
        shape = tuple[str, list[tuple[str, str, str, str]]]
        return None if body is None else msgspec.msgpack.decode(body, type=shape)

    def _made(self, kind: str, body: bytes) -> Told:
        return Told(kind, self._mac(kind, body) + body)

    def _body(self, told: Told) -> bytes | None:
        mac, body = told.body[:_MAC_BYTES], told.body[_MAC_BYTES:]
        return body if hmac.compare_digest(mac, self._mac(told.kind, body)) else None

    def _mac(self, kind: str, body: bytes) -> bytes:
        return hmac.digest(self._key, kind.encode() + b"\0" + body, hashlib.sha256)

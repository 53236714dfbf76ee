"""What one broker may believe of another's word that came over the swift engine.

Whoever can write there can publish too. A word that brings an answer forward (this is durable) or ends what
runs is sealed with a key that only the truth's readers have; all other words only make a broker look. So is a
work in a stream, for its epoch and shard, and the rows of a transaction, for their epoch and version: the
truth takes no work on an older version that is put back.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from stepwrit_broker.store.fleet.codec import Garbled
from stepwrit_broker.store.fleet.seams import WORK_DIGEST_BYTES, Carried, Row, Told

Ends = Sequence[tuple[str, str, str, str]]
_MAC_BYTES: Final = 32
TAG_BYTES: Final = 16
NO_WORK: Final = bytes(WORK_DIGEST_BYTES)


def digest_of(work: bytes) -> bytes:
    """A sealed work's name by its bytes, as the truth keeps it."""
    return hashlib.blake2b(work, digest_size=WORK_DIGEST_BYTES).digest()


def rows_digest(seal: bytes) -> bytes:
    """The work that made these rows, by the seal that they have."""
    return seal[:WORK_DIGEST_BYTES]


class Seal:
    """Makes and reads sealed words. secret: the fleet's own, 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"stepwrit fleet words", hashlib.sha256)
        self._works = hmac.digest(secret, b"stepwrit fleet works", hashlib.sha256)
        self._rows = hmac.digest(secret, b"stepwrit fleet rows", hashlib.sha256)

    def durable(self, epoch: str, carried: Mapping[int, Carried]) -> Told:
        """What the truth has of this epoch since the last word."""
        return self._made("durable", msgspec.msgpack.encode((epoch, carried)))

    def ended(self, me: str, ended: Ends) -> Told:
        """Steps that ended durably under those who run them."""
        return self._made("ended", msgspec.msgpack.encode((me, ended)))

    def read_durable(self, told: Told) -> tuple[str, dict[int, Carried]] | None:
        """What `durable` made; None for anything else."""
        body = self._body(told)
        return None if body is None else msgspec.msgpack.decode(body, type=tuple[str, dict[int, Carried]])

    def read_ended(self, told: Told) -> tuple[str, list[tuple[str, str, str, str]]] | None:
        """What `ended` made; None for anything else."""
        body = self._body(told)
        shape = tuple[str, list[tuple[str, str, str, str]]]
        return None if body is None else msgspec.msgpack.decode(body, type=shape)

    def work(self, epoch: str, shard: int, work: bytes) -> bytes:
        """A work as it stands in a stream."""
        return self._tag(self._works, epoch, str(shard), work) + work

    def opened(self, epoch: str, shard: int, sealed: bytes) -> bytes:
        """What `work` sealed. Raises Garbled for anything else."""
        tag, work = sealed[:TAG_BYTES], sealed[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(self._works, epoch, str(shard), work)):
            raise Garbled("a work that no broker of this fleet sealed for this shard and epoch")
        return work

    def term(self, txn: str, row: Row) -> int:
        """What a row adds to the sum of its transaction; rows are summed by exclusive or."""
        said = b"\0".join((txn.encode(), row.field.encode(), b"%d" % row.ord, row.value))
        return int.from_bytes(hashlib.blake2b(said, key=self._rows, digest_size=32).digest(), "big")

    def rows(self, epoch: str, txn: str, version: int, work: bytes, total: int) -> bytes:
        """The seal of all of a transaction's rows. work: the digest of the one that made them."""
        named = (epoch, txn, str(version))
        return work + self._tag(self._rows, *named, work + total.to_bytes(32, "big"))

    def holds(self, epoch: str, txn: str, version: int, seal: bytes, total: int) -> bool:
        """Whether `rows` made this seal of them."""
        return hmac.compare_digest(seal, self.rows(epoch, txn, version, rows_digest(seal), total))

    @staticmethod
    def _tag(key: bytes, *said: str | bytes) -> bytes:
        whole = b"\0".join(each.encode() if isinstance(each, str) else each for each in said)
        return hashlib.blake2b(whole, key=key, digest_size=TAG_BYTES).digest()

    def _made(self, kind: str, body: bytes) -> Told:
        return Told(kind, self._mac(kind, body) + body)

    def _body(self, told: Told) -> bytes | None:
        mac, body = told.body[:_MAC_BYTES], told.body[_MAC_BYTES:]
        return body if hmac.compare_digest(mac, self._mac(told.kind, body)) else None

    def _mac(self, kind: str, body: bytes) -> bytes:
        return hmac.digest(self._key, kind.encode() + b"\0" + body, hashlib.sha256)

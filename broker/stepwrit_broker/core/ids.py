"""Names of transactions, steps, grants and refs. They open nothing.

Shape: prefix, format digit, two hex digits of the shard, 26 Crockford base-32 characters (130 random bits).
A step's and a grant's shard is its transaction's, so that everything of one transaction lives together.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["txn", "stp", "grt", "apr"]

FORMAT = "1"
RANDOM_BYTES = 17  # 136 bits, of which 130 are used
REF_BYTES = 7  # 56 bits, of which 50 are used
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID = re.compile(r"(txn|stp|grt|apr)_1([0-9a-f]{2})[0-9A-HJKMNP-TV-Z]{26}\Z")
_REF = re.compile(r"[0-9A-HJKMNP-TV-Z]{10}\Z")


def crockford(raw: bytes, length: int) -> str:
    """`length` Crockford base-32 characters of the low bits of `raw`."""
    number = int.from_bytes(raw, "big")
    characters = [""] * length
    for at in range(length):
        characters[at] = _ALPHABET[number & 31]
        number >>= 5
    return "".join(characters)


def make_id(kind: Kind, shard: str, raw: bytes) -> str:
    """An id of `kind` in `shard` (two hex digits) from RANDOM_BYTES random bytes."""
    return f"{kind}_{FORMAT}{shard}{crockford(raw, 26)}"


def make_ref(raw: bytes) -> str:
    """A short name from REF_BYTES random bytes; unique enough within a tenant."""
    return crockford(raw, 10)


def shard_of(name: str) -> str:
    """The shard inside an id that `is_id` accepts."""
    return name[5:7]


def is_id(kind: Kind, unverified: str) -> bool:
    """Whether this is an id of that kind."""
    return unverified.startswith(kind) and _ID.match(unverified) is not None


def is_ref(unverified: str) -> bool:
    """Whether this is a ref."""
    return _REF.match(unverified) is not None

"""Names of keys: `{<fleet>:<shard>}:<epoch>:<what>`; of one shard all are in one slot.

What is wider than a transaction lies in the shard that its own name's CRC-32 gives.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

_FLEET: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of one fleet's keys. Raises ValueError for a fleet's name that has other than `A-Za-z0-9._-`."""

    fleet: str
    shards: int

    def __post_init__(self) -> None:
        if not _FLEET.match(self.fleet):
            raise ValueError("a fleet's name has 1 to 64 of A-Z a-z 0-9 . _ -")
        if not 1 <= self.shards <= 256:
            raise ValueError("a fleet has 1 to 256 shards")

    def tag(self, shard: int) -> str:
        """The hash tag's content."""
        return f"{self.fleet}:{shard:02x}"

    def shard(self, shard: int) -> str:
        """A hash: epoch, reign, layout and the shard's counters."""
        return f"{{{self.tag(shard)}}}:shard"

    def past(self, shard: int) -> str:
        """A list: epochs that are over, the last first."""
        return f"{{{self.tag(shard)}}}:past"

    def of(self, shard: int, epoch: str, what: str) -> str:
        """A key of one epoch: `s` the stream, `t:<txn>`, `o` `ox` proofs, `p` `px` places, `l` leases."""
        return f"{{{self.tag(shard)}}}:{epoch}:{what}"

    def wide(self, name: bytes) -> int:
        """The shard of something wider than a transaction."""
        return zlib.crc32(name) % self.shards

    @property
    def channel(self) -> str:
        """Where brokers tell each other."""
        return f"{{{self.fleet}}}:told"

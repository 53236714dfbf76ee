"""The ledger's tree, computed anew from the entries, against every checkpoint that anybody saw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tests.faults.told import Check, Finding, Told

from stepwrit_broker.core.merkle import Frontier


def contiguous(told: Told) -> Iterator[Finding]:
    """Numbers without a hole or a twin, and every leaf the hash of its body."""
    for at, entry in enumerate(sorted(told.run.entries, key=lambda e: e.seq)):
        if entry.seq != at:
            yield Finding("tree", f"entry {entry.seq} stands at {at}")
            return
    for entry in told.run.entries:
        if _leaf(entry.body).hex() != entry.leaf:
            yield Finding("tree", f"entry {entry.seq} is not what its leaf says")


def checkpoints(told: Told) -> Iterator[Finding]:
    """Each is of a tree that this one extends: the first entries of this one have that very root."""
    wanted = {seen.size for seen in told.run.checkpoints}
    frontier, roots = Frontier(), {0: Frontier().root.hex()}
    for entry in sorted(told.run.entries, key=lambda e: e.seq):
        frontier.append(_leaf(entry.body))
        if frontier.size in wanted:
            roots[frontier.size] = frontier.root.hex()
    for seen in told.run.checkpoints:
        if seen.size not in roots:
            yield Finding("tree", f"{seen.via} showed {seen.size} entries, the log has {frontier.size}")
        elif roots[seen.size] != seen.root:
            yield Finding("tree", f"{seen.via} showed another root for size {seen.size}")


def _leaf(body: str) -> bytes:
    return hashlib.sha256(b"\x00" + body.encode()).digest()


CHECKS: tuple[Check, ...] = (contiguous, checkpoints)

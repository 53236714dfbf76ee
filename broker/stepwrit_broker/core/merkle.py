"""The log's mathematics: tree hashes, proofs and checkpoint text. Bytes in, bytes or a refusal out.

Source: RFC 9162 section 2.1 (the tree is that of RFC 6962, SHA-256) and C2SP tlog-checkpoint (the text).
Leaves are numbered from 0; a *complete subtree* (level, index) covers the leaves from `index << level` up to
`(index + 1) << level`. No keys and no I/O here: who stores the hashes passes `get`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NoReturn

from stepwrit_broker.core.errors import Malformed

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
TILE_LEVELS: Final = 8  # a tile is 256 hashes wide (C2SP tlog-tiles)
MAX_SIZE: Final = 2**63 - 1  # leaves

GetNode = Callable[[int, int], bytes]  # (level, index) of a complete subtree: its hash
Node = tuple[int, int, bytes]  # (level, index, hash) of a complete subtree


class ProofRefused(Malformed):
    """A proof does not show what it was offered for."""


class CheckpointRefused(Malformed):
    """A checkpoint's text is not the format's."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry (RFC 9162 section 2.1.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 9162 section 2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A compact range: the roots of the complete subtrees that make up the first `size` leaves.

    All that is needed to go on appending; O(log size) hashes. Not thread-safe while it grows.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count() or any(len(p) != HASH_BYTES for p in peaks):
            _refuse("these hashes are not a compact range of that size")
        self._size = size
        self._peaks = list(peaks)

    @classmethod
    def at(cls, size: int, get: GetNode) -> Frontier:
        """That of the first `size` leaves, from stored subtree hashes."""
        return cls(size, _peaks(0, size, get))

    @property
    def size(self) -> int:
        """How many leaves it stands for."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The subtree roots, largest first."""
        return tuple(self._peaks)

    @property
    def root(self) -> bytes:
        """The tree's root hash; the empty root when there are no leaves."""
        return _fold_peaks(self._peaks)

    def copy(self) -> Frontier:
        """An independent copy."""
        return Frontier(self._size, self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> list[Node]:
        """Add leaf hashes in order; the tile tops (levels that divide by 8) this completed, in order."""
        peaks, tops, size = self._peaks, [], self._size
        for leaf in leaves:
            index, level, node = size, 0, leaf
            while index & 1:
                node = sha256(b"\x01" + peaks.pop() + node).digest()
                index >>= 1
                level += 1
                if not level % TILE_LEVELS:
                    tops.append((level, index, node))
            peaks.append(node)
            size += 1
        self._size = size
        return tops


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaf hashes, or over one whole level of a complete subtree."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root


def root_at(size: int, get: GetNode) -> bytes:
    """The root of the first `size` leaves, from stored subtree hashes."""
    return _range_root(0, size, get)


def inclusion_proof(index: int, size: int, get: GetNode) -> list[bytes]:
    """The path from leaf `index` to the root at `size` (RFC 9162 section 2.1.3.1).

    Raises: ProofRefused when there is no such leaf at that size.
    """
    if not 0 <= index < size:
        _refuse("the tree of that size has no such leaf")
    return _siblings(index, size, get)[1][::-1]


def verify_inclusion(*, leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Return if `leaf` is number `index` below `root` at `size`, else ProofRefused (section 2.1.3.2)."""
    _hashes(leaf, root, *path)
    if not 0 <= index < size <= MAX_SIZE:
        _refuse("leaf number outside the tree")
    fn, sn, node = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            _refuse("path longer than the tree is high")
        if fn & 1 or fn == sn:
            node = node_hash(sibling, node)
            fn, sn = _skip_missing(fn, sn)
        else:
            node = node_hash(node, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        _refuse("path shorter than the tree is high")
    if node != root:
        _refuse("the path does not lead to the root")


def consistency_proof(first: int, second: int, get: GetNode) -> list[bytes]:
    """What shows that the tree at `second` extends the one at `first` (RFC 9162 section 2.1.4.1).

    Empty for equal sizes and for the empty tree, which every tree extends. Raises: ProofRefused.
    """
    if not 0 <= first <= second:
        _refuse("the first size is not below the second")
    if first in (0, second):
        return []
    low, path = _siblings(first - 1, second, get, end=first)
    if low:  # the verifier cannot know this subtree: it is not the whole first tree
        path.append(_range_root(low, first, get))
    return path[::-1]


def verify_consistency(
    *, first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> None:
    """Return if the second tree extends the first, else raise ProofRefused (section 2.1.4.2)."""
    _hashes(first_root, second_root, *path)
    if not 0 <= first <= second <= MAX_SIZE:
        _refuse("the first size is not below the second")
    if (first == 0 and first_root != EMPTY_ROOT) or (first == second and first_root != second_root):
        _refuse("one size with two roots")
    if bool(path) != (0 < first < second):
        _refuse("a proof where none is needed, or none where one is")
    if path:
        _walk_consistency(first, second, (first_root, second_root), path)


def _walk_consistency(first: int, second: int, roots: tuple[bytes, bytes], path: Sequence[bytes]) -> None:
    nodes = [roots[0], *path] if first & (first - 1) == 0 else list(path)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if sn == 0:
            _refuse("proof longer than the tree is high")
        if fn & 1 or fn == sn:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            fn, sn = _skip_missing(fn, sn)
        else:
            new = node_hash(new, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        _refuse("proof shorter than the tree is high")
    if (old, new) != roots:
        _refuse("the proof does not lead to both roots")


def _siblings(leaf: int, size: int, get: GetNode, *, end: int = 0) -> tuple[int, list[bytes]]:
    """Descend to `leaf`, or to the first subtree that ends at `end`: its start, and what was left aside."""
    low, high = 0, size
    aside: list[bytes] = []
    while high - low > 1 and high != end:
        middle = low + (1 << ((high - low - 1).bit_length() - 1))  # the largest power of two below
        if leaf < middle:
            aside.append(_range_root(middle, high, get))
            high = middle
        else:
            aside.append(_range_root(low, middle, get))
            low = middle
    return low, aside


def _skip_missing(fn: int, sn: int) -> tuple[int, int]:
    """Leave out the levels on which the rightmost node has no sibling."""
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _range_root(low: int, high: int, get: GetNode) -> bytes:
    return _fold_peaks(_peaks(low, high, get))


def _peaks(low: int, high: int, get: GetNode) -> list[bytes]:
    """Complete subtrees of [low, high), largest first; `low` is aligned to the largest of them."""
    found: list[bytes] = []
    while low < high:
        level = (high - low).bit_length() - 1
        found.append(get(level, low >> level))
        low += 1 << level
    return found


def _fold_peaks(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    node = peaks[-1]
    for peak in reversed(peaks[:-1]):
        node = node_hash(peak, node)
    return node


def _hashes(*unverified: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in unverified):
        _refuse("a hash is 32 bytes")


def _refuse(reason: str) -> NoReturn:
    raise ProofRefused("invalid_proof", reason)


def _bad_text(reason: str) -> NoReturn:
    raise CheckpointRefused("invalid_request", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's claim: under this origin, the tree of `size` leaves has this root (C2SP tlog-checkpoint)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text that is signed; refuses (CheckpointRefused) what it could not read back."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        written = "\n".join(lines) + "\n"
        if parse_checkpoint(written) != self:
            _bad_text("a checkpoint line is empty or spans lines")
        return written


def parse_checkpoint(unverified: str) -> Checkpoint:
    """The checkpoint this note text states; CheckpointRefused if it is not exactly in the format."""
    *lines, rest = unverified.split("\n")
    if rest or len(lines) < 3 or not all(lines):
        _bad_text("at least three lines, none empty, each ended by a newline")
    origin, size, root, *more = lines
    return Checkpoint(origin=origin, size=_parse_size(size), root=_parse_root(root), extensions=tuple(more))


def _parse_size(unverified: str) -> int:
    if not (unverified.isascii() and unverified.isdigit()) or len(unverified) > 19:
        _bad_text("the tree size is a decimal number")
    size = int(unverified)
    if unverified != str(size) or size > MAX_SIZE:
        _bad_text("the tree size has leading zeros or is too large")
    return size


def _parse_root(unverified: str) -> bytes:
    try:
        root = base64.b64decode(unverified, validate=True)
    except ValueError:
        _bad_text("the root is not base64")
    if len(root) != HASH_BYTES or base64.b64encode(root).decode() != unverified:
        _bad_text("the root is not 32 bytes of canonical base64")
    return root

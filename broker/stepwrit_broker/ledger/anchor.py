"""The anchor: what the log had reached, kept outside its database.

A database copied back from yesterday is whole and consistent; only something that was not copied back with
it can tell. The anchor is written before a checkpoint or a "no" is acknowledged and compared at start.
It does not help against a machine that is rolled back as a whole: that takes a witness elsewhere.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, cast

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.core.merkle import HASH_BYTES
from stepwrit_broker.durable import replace
from stepwrit_broker.ledger.schema import in_doubt

_V: Final = 1
_MAX_BYTES: Final = 100_000
_MEMBERS: Final = frozenset({"v", "epoch", "size", "root", "high_water", "origin", "note"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """How far the log had come. high_water: seconds since the epoch. note: the checkpoint of this size."""

    origin: str
    epoch: str
    size: int
    root: bytes
    high_water: float
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a database says of itself. root_at: its root at an earlier size."""

    origin: str | None
    size: int
    root_at: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class AnchorHolds:
    """The database goes on from the anchor; None: both are new."""

    anchor: Anchor | None


@dataclass(frozen=True, slots=True)
class DatabaseOlder:
    """The anchor has seen entries that this database does not have. Refuse until adopted."""

    anchor: Anchor
    size: int


@dataclass(frozen=True, slots=True)
class AnchorMissing:
    """The database has entries and nobody remembers how many. Refuse until adopted."""

    size: int


@dataclass(frozen=True, slots=True)
class AnchorMismatch:
    """The database and the anchor tell different stories. Refuse until adopted."""

    anchor: Anchor
    reason: str


AnchorVerdict = AnchorHolds | DatabaseOlder | AnchorMissing | AnchorMismatch


def check(reached: Reached, anchor: Anchor | None) -> AnchorVerdict:
    """Whether this database may go on; everything but AnchorHolds is a refusal to start."""
    if anchor is None:
        return AnchorMissing(reached.size) if reached.size else AnchorHolds(None)
    if reached.size < anchor.size:
        return DatabaseOlder(anchor, reached.size)
    if reached.origin != anchor.origin:
        return AnchorMismatch(
            anchor, f"the database's origin is {reached.origin}, the anchor's {anchor.origin}"
        )
    if reached.root_at(anchor.size) != anchor.root:
        return AnchorMismatch(anchor, f"another root at size {anchor.size}: this is another history")
    return AnchorHolds(anchor)


class AnchorFile:
    """The anchor's file, on another path (best: another disk) than the database. One writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Anchor | None = None

    def read(self) -> Anchor | None:
        """The anchor, or None when there is no file. Raises: Unavailable for one that cannot be read."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise in_doubt(f"the anchor file: {error.strerror}") from error
        self._last = parse_anchor(content)
        return self._last

    def write(self, anchor: Anchor) -> None:
        """Make the anchor durable; on return it survives a crash.

        The high-water time never goes back. Raises: Conflict when the size would, or would get a second root;
        Unavailable when it cannot be written (then nothing that waits for it may be acknowledged).
        """
        last = self._last or self.read()
        if last is not None:
            _check_forward(last, anchor)
            anchor = dataclasses.replace(anchor, high_water=max(last.high_water, anchor.high_water))
        self.put(anchor)

    def put(self, anchor: Anchor) -> None:
        """Write without comparing: only for an adoption that the operator asked for."""
        try:
            replace(self._path, render_anchor(anchor))
        except OSError as error:
            raise in_doubt(f"the anchor cannot be written: {error.strerror}") from error
        self._last = anchor


def render_anchor(anchor: Anchor) -> bytes:
    """The file's content."""
    members: dict[str, object] = {
        "v": _V,
        "origin": anchor.origin,
        "epoch": anchor.epoch,
        "size": anchor.size,
        "root": base64.b64encode(anchor.root).decode(),
        "high_water": anchor.high_water,
    }
    if anchor.note is not None:
        members["note"] = anchor.note
    return json.dumps(members, allow_nan=False, indent=1).encode() + b"\n"


def parse_anchor(unverified: bytes) -> Anchor:
    """The anchor in the file's content; Unavailable for anything else."""
    try:
        members: object = json.loads(unverified)
    except (ValueError, RecursionError):
        _unreadable("not JSON")
    if not isinstance(members, dict):
        _unreadable("not an object")
    return _from_members(cast("dict[str, object]", members))


def _from_members(members: dict[str, object]) -> Anchor:
    if members.get("v") != _V or not members.keys() <= _MEMBERS:
        _unreadable("another version")
    anchor = _typed(members)
    if anchor is None:
        _unreadable("a member is missing or of the wrong type")
    return anchor


def _typed(members: dict[str, object]) -> Anchor | None:
    match members:
        case {
            "origin": str(origin),
            "epoch": str(epoch),
            "size": int(size),
            "root": str(root),
            "high_water": int() | float() as high_water,
        } if size >= 0 and not isinstance(size, bool) and math.isfinite(high_water):
            note = members.get("note")
            if note is None or isinstance(note, str):
                return Anchor(
                    origin=origin, epoch=epoch, size=size, root=_root(root), high_water=high_water, note=note
                )
        case _:
            pass
    return None


def _root(unverified: str) -> bytes:
    try:
        root = base64.b64decode(unverified, validate=True)
    except ValueError:
        _unreadable("the root is not base64")
    if len(root) != HASH_BYTES:
        _unreadable("the root is not 32 bytes")
    return root


def _check_forward(last: Anchor, following: Anchor) -> None:
    if last.origin != following.origin:
        raise Conflict("wrong_state", "the anchor belongs to another origin", rule="the anchor")
    if following.size < last.size or (following.size == last.size and following.root != last.root):
        raise Conflict(
            "wrong_state", "the anchor never goes back and has one root per size", rule="the anchor"
        )


def _unreadable(why: str) -> NoReturn:
    raise Unavailable("unavailable", f"the anchor file is not an anchor: {why}", rule="the anchor")

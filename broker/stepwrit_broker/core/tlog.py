"""Texts that logs, witnesses and verifiers pass to each other. Text in, values or a refusal out; no I/O.

Sources: C2SP tlog-witness (the request of `add-checkpoint`) and tlog-proof (a proof in one file). Checkpoints
and signatures in them are opened elsewhere: nothing here is believed for having been parsed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.merkle import HASH_BYTES, MAX_SIZE

MAX_PROOF_LINES: Final = 63
MAX_EXTRA_BYTES: Final = 65_535
PROOF_HEAD: Final = "c2sp.org/tlog-proof@v1"
PROOF_SUFFIX: Final = ".tlog-proof"


class TextRefused(Malformed):
    """The text is not in the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCheckpoint:
    """A log asks a witness to cosign `checkpoint`, which extends the tree of `old` leaves by this proof."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """The request's body."""
        lines = [f"old {self.old}", *proof_lines(self.proof), "", self.checkpoint]
        return "\n".join(lines)


def parse_add_checkpoint(unverified: str) -> AddCheckpoint:
    """What the body of `add-checkpoint` asks; TextRefused when it is not exactly in the format."""
    head, blank, checkpoint = unverified.partition("\n\n")
    if not blank or not checkpoint:
        _refuse("no checkpoint after an empty line")
    first, *rest = head.split("\n")
    if len(rest) > MAX_PROOF_LINES:
        _refuse(f"more than {MAX_PROOF_LINES} proof lines")
    return AddCheckpoint(
        old=_number(first, "old"), proof=tuple(_hash(line) for line in rest), checkpoint=checkpoint
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """Entry `index` is in the log that signed `checkpoint`. extra: the application's, not authenticated."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def text(self) -> str:
        """The proof as a file's content."""
        extra = [] if self.extra is None else [f"extra {_encode(self.extra)}"]
        lines = [PROOF_HEAD, *extra, f"index {self.index}", *proof_lines(self.path), "", self.checkpoint]
        return "\n".join(lines)


def parse_proof(unverified: str) -> LogProof:
    """The proof in a file's content; TextRefused when it is not exactly in the format."""
    head, blank, checkpoint = unverified.partition("\n\n")
    lines = head.split("\n")
    if not blank or not checkpoint or lines[0] != PROOF_HEAD or len(lines) < 2:
        _refuse("not a c2sp.org/tlog-proof@v1")
    has_extra = lines[1].startswith("extra ")
    rest = lines[2:] if has_extra else lines[1:]
    if not rest or len(rest) > MAX_PROOF_LINES + 1:
        _refuse("no index, or more hashes than a tree is high")
    return LogProof(
        extra=_extra(lines[1]) if has_extra else None,
        index=_number(rest[0], "index"),
        path=tuple(_hash(line) for line in rest[1:]),
        checkpoint=checkpoint,
    )


def parse_size(unverified: str) -> int:
    """A decimal number without leading zeros, at most that of a tree's leaves; TextRefused else."""
    if not (unverified.isascii() and unverified.isdigit()) or len(unverified) > 19:
        _refuse("a size is a decimal number")
    if unverified != str(int(unverified)) or int(unverified) > MAX_SIZE:
        _refuse("a size has leading zeros or is too large")
    return int(unverified)


def proof_lines(hashes: Sequence[bytes]) -> list[str]:
    """Hashes as such texts write them."""
    return [_encode(each) for each in hashes]


def _number(line: str, word: str) -> int:
    if not line.startswith(f"{word} "):
        _refuse(f"a line `{word} N` is missing")
    return parse_size(line[len(word) + 1 :])


def _hash(line: str) -> bytes:
    value = _decode(line)
    if len(value) != HASH_BYTES:
        _refuse("a hash is 32 bytes")
    return value


def _extra(line: str) -> bytes:
    value = _decode(line.removeprefix("extra "))
    if len(value) > MAX_EXTRA_BYTES:
        _refuse("too much extra data")
    return value


def _decode(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        _refuse("not base64")
    if _encode(value) != text:
        _refuse("not canonical base64")
    return value


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _refuse(reason: str) -> NoReturn:
    raise TextRefused("invalid_request", reason)

"""What a verification found, in types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

FindingKind = Literal[
    "unreadable",  # the file is not what it should be
    "gap",  # an entry is missing, or there twice
    "body_changed",  # the body is not the one that was hashed
    "body_missing",  # no body here, and no record that it was exported
    "index_changed",  # a column does not say what the body says
    "node_changed",  # a stored subtree hash is not the one of its leaves
    "root_mismatch",  # the entries do not make the root that was signed, anchored or exported
    "checkpoint_forged",  # a stored checkpoint is not signed by this key
    "checkpoint_origin",  # signed by this key, for a log it does not lead to
    "no_checkpoint",  # nothing here was ever signed
    "cosignature_forged",  # a stored cosignature is not by that witness on that checkpoint
    "not_cosigned",  # fewer of the given witnesses than demanded
    "truncated",  # signed, anchored or exported entries are not here
]


class Span(NamedTuple):
    """Entries `first` up to, without, `upto`."""

    first: int
    upto: int


class Renamed(NamedTuple):
    """At `seq` the log went on under another origin."""

    seq: int
    old_origin: str
    new_origin: str


class Followed(NamedTuple):
    """The largest checkpoint that a witness cosigned. at: seconds since the epoch."""

    witness: str
    size: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it must be. seq: the entry it is about, where it is about one."""

    kind: FindingKind
    seq: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of a verification; `ok` is the whole of it, the rest says why and how far.

    size, root: of the entries found. signed_size, signed_at: the newest checkpoint that holds, and when the
    log says it was signed (seconds since the epoch; the time itself is not signed). unsigned_tail: entries
    after it. only_in_exports: bodies checked in a given export. not_checked: bodies the log says it exported,
    in no given export. cannot_exclude: what this verification could not have noticed.
    """

    origin: str
    size: int
    root: bytes
    signed_size: int
    signed_at: float | None
    findings: tuple[Finding, ...]
    renamed: tuple[Renamed, ...] = ()
    only_in_exports: tuple[Span, ...] = ()
    not_checked: tuple[Span, ...] = ()
    cannot_exclude: str | None = None
    cosigned: tuple[Followed, ...] = ()

    @property
    def ok(self) -> bool:
        """No finding."""
        return not self.findings

    @property
    def unsigned_tail(self) -> int:
        """Entries beyond the last checkpoint that holds."""
        return max(0, self.size - self.signed_size)

    def lines(self) -> list[str]:
        """The report for people, one statement per line."""
        said = [f"{'ok' if self.ok else 'NOT OK'}: {self.origin}, {self.size} entries"]
        said += [
            f"{f.kind}{'' if f.seq is None else f' at entry {f.seq}'}: {f.detail}" for f in self.findings
        ]
        said += [f"entry {r.seq}: went on as {r.new_origin} (was {r.old_origin})" for r in self.renamed]
        said += [f"entries {s.first}..{s.upto - 1}: bodies only in exports" for s in self.only_in_exports]
        said += [
            f"entries {s.first}..{s.upto - 1}: bodies not checked, in no given export"
            for s in self.not_checked
        ]
        said += [f"cosigned to size {c.size} by {c.witness}, {_utc(c.at)}" for c in self.cosigned]
        if self.unsigned_tail:
            said.append(f"unsigned tail of {self.unsigned_tail} entries")
        return said if self.cannot_exclude is None else [*said, self.cannot_exclude]


def cannot_exclude(size: int, signed_at: float | None) -> str:
    """What a verification without an anchor leaves open."""
    when = "" if signed_at is None else f", signed {_utc(signed_at)}"
    return f"consistent to size {size}{when}; later truncation is not excluded without an anchor or a witness"


def subtract(span: Span, covered: Sequence[Span]) -> list[Span]:
    """What of `span` none of the others covers, in order."""
    left, at = [], span.first
    for first, upto in sorted(covered):
        if first > at:
            left.append(Span(at, min(first, span.upto)))
        at = max(at, upto)
    left.append(Span(at, span.upto))
    return [part for part in left if part.first < part.upto]


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

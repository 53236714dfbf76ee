"""One pass over entries in their order: every leaf from its body, every subtree, the roots at given sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, cast

from stepwrit_broker.core.merkle import Frontier, leaf_hash
from stepwrit_broker.ledger.report import Finding, FindingKind, Renamed, Span
from stepwrit_broker.ledger.source import Entry

MAX_FINDINGS: Final = 1_000  # a ruined log is not described entry by entry

Exported = tuple[int, int]
"""(seq, upto): entry `seq` says that the bodies below `upto` were exported."""


class Walk:
    """Feed it entries; then read what it saw."""

    def __init__(
        self, start: Frontier, stops: Iterable[int], nodes: dict[tuple[int, int], bytes] | None
    ) -> None:
        self.frontier = start
        self.expected = start.size
        self.findings: list[Finding] = []
        self.renamed: list[Renamed] = []
        self.exported: list[Exported] = []
        self.without_body: list[Span] = []
        self.roots: dict[int, bytes] = {}
        self._stops = frozenset(stops)
        self._nodes = nodes
        self._note_root()

    def find(self, kind: FindingKind, seq: int | None, detail: str) -> None:
        """Add a finding."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind=kind, seq=seq, detail=detail))

    def step(self, entry: Entry) -> None:
        """Take the next entry."""
        if entry.seq != self.expected:
            self.find("gap", entry.seq, f"entry {self.expected} should be here")
        self.expected = entry.seq + 1
        leaf = self._leaf(entry)
        tops = self.frontier.extend((leaf,))
        if self._nodes is not None:
            for level, index, node in tops:
                if self._nodes.pop((level, index), None) != node:
                    self.find(
                        "node_changed", index << level, f"the stored hash of subtree ({level}, {index})"
                    )
        self._note_root()

    def node_keys(self) -> list[tuple[int, int]]:
        """Stored subtrees that no leaves completed."""
        return sorted(self._nodes or ())

    def _leaf(self, entry: Entry) -> bytes:
        body = cast("object", entry.body)  # the file's word for it; it may be anything
        if body is None:
            self._without_body(entry.seq)
            return _sound(entry.leaf)
        if not isinstance(body, bytes):
            self.find("body_changed", entry.seq, "the body is not bytes any more")
            return _sound(entry.leaf)
        leaf = leaf_hash(body)
        if leaf != entry.leaf:
            self.find("body_changed", entry.seq, "the body is not the one whose hash stands beside it")
        self._read_body(entry, body)
        return leaf

    def _without_body(self, seq: int) -> None:
        if self.without_body and self.without_body[-1].upto == seq:
            self.without_body[-1] = Span(self.without_body[-1].first, seq + 1)
        else:
            self.without_body.append(Span(seq, seq + 1))

    def _read_body(self, entry: Entry, body: bytes) -> None:
        said = _members(body)
        columns = {"kind": entry.kind, "txn": entry.txn, "ref": entry.ref, "tenant": entry.tenant}
        for name, column in columns.items():
            if name in said and said[name] != column:
                self.find("index_changed", entry.seq, f"the column {name} is not what the body says")
        at = said.get("at")
        if isinstance(at, int | float) and abs(at - entry.at) > 1e-5:
            self.find("index_changed", entry.seq, "the column at is not what the body says")
        match said:
            case {"adopted": {"old_origin": str(old), "new_origin": str(new)}}:
                self.renamed.append(Renamed(entry.seq, old, new))
            case {"exported": {"upto": int(upto)}}:
                self.exported.append((entry.seq, upto))
            case _:
                pass

    def _note_root(self) -> None:
        if self.frontier.size in self._stops:
            self.roots[self.frontier.size] = self.frontier.root


def _members(body: bytes) -> dict[str, object]:
    """The body's JSON members; none when it is anything else (then it says nothing about columns)."""
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", said) if isinstance(said, dict) else {}


def _sound(leaf: object) -> bytes:
    """A stored hash that cannot be one still takes its place, so that the root shows it."""
    return leaf if isinstance(leaf, bytes) else b""

"""Looks at a store's file from outside, with plain SQL: what was promised is there, and nothing twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_APPROVALS = "SELECT a.id, a.state, s.state FROM approvals AS a JOIN steps AS s ON s.id = a.step"


def audit(path: Path, acknowledged: Iterable[str], *, is_swept: bool = False) -> list[str]:
    """What is wrong; empty when nothing is.

    acknowledged: `redeemed ID`, `issued ID`, `opened ID`, `closed ID`, `marked TARGET`, `asked ID`,
    `given ID`, `used ID`, as callers were told.
    is_swept: after a restart and a sweep no credential of before may be left unended.
    """
    conn = sqlite3.connect(path)
    try:
        entries = conn.execute("SELECT seq, leaf, body FROM entries ORDER BY seq").fetchall()
        facts = [json.loads(body) for _, _, body in entries]
        grants = dict(conn.execute("SELECT id, state FROM grants"))
        steps = dict(conn.execute("SELECT id, state FROM steps"))
        marked = {row[0] for row in conn.execute("SELECT target FROM marks")}
        approvals = {row[0]: (row[1], row[2]) for row in conn.execute(_APPROVALS)}
    finally:
        conn.close()
    told = Told(facts)
    lines = list(acknowledged)
    wrong = [*contiguous(entries), *told.twice(), *told.rows(grants), *told.lost(lines, steps, marked)]
    wrong += told.approvals(lines, approvals)
    if is_swept:
        wrong += [f"never ended: {name}" for name, state in grants.items() if state in ("reserved", "issued")]
    return wrong


def contiguous(entries: list[tuple[int, bytes, bytes]]) -> list[str]:
    """Numbers without a gap, and every leaf the hash of its body."""
    wrong = [f"entry {seq} stands at {at}" for at, (seq, _, _) in enumerate(entries) if seq != at]
    for seq, leaf, body in entries:
        if leaf != hashlib.sha256(b"\x00" + body).digest():
            wrong.append(f"entry {seq} is not what its leaf says")
    return wrong


class Told:
    """What the ledger tells about credentials and steps."""

    def __init__(self, facts: list[dict[str, str]]) -> None:
        self.issued = Counter(one["grant"] for one in facts if one["kind"] in ("grant.issued", "grant.self"))
        self.redeemed = Counter(
            one["grant"] for one in facts if one["kind"] in ("grant.redeemed", "grant.self")
        )
        self.opened = {one["step"] for one in facts if one["kind"] in ("step.opened", "intent.opened")}
        self.closed = {one["step"] for one in facts if one["kind"] == "step.closed"}
        self.approval = Counter((one["kind"], one["approval"]) for one in facts if one.get("approval"))
        self.marked = {one["target"] for one in facts if one["kind"] == "mark.set"}

    def twice(self) -> list[str]:
        again = [f"spent twice: {name}" for name, count in self.redeemed.items() if count > 1]
        return again + [f"issued twice: {name}" for name, count in self.issued.items() if count > 1]

    def rows(self, grants: dict[str, str]) -> list[str]:
        """Rows and entries stand together."""
        wrong = [f"no entry for the credential {name}" for name in grants if name not in self.issued]
        wrong += [f"no row for the credential {name}" for name in self.issued if name not in grants]
        wrong += [
            f"spent without ever being issued: {name}" for name in self.redeemed if name not in self.issued
        ]
        revoked = {name for name, state in grants.items() if state == "revoked"}
        spent = {name for name, state in grants.items() if state == "redeemed"}
        wrong += [f"spent without an entry: {name}" for name in spent if name not in self.redeemed]
        wrong += [
            f"an entry says spent, its row does not: {name}"
            for name in self.redeemed.keys() - spent - revoked
        ]
        return wrong

    def lost(self, acknowledged: Iterable[str], steps: dict[str, str], marked: set[str]) -> list[str]:
        """What callers were told is there."""
        have: dict[str, set[str]] = {
            "redeemed": set(self.redeemed),
            "issued": set(self.issued),
            "opened": self.opened & steps.keys(),
            "closed": {name for name in self.closed if steps.get(name) == "done"},
            "marked": self.marked & marked,
        }
        pairs = (line.split(" ", 1) for line in acknowledged)
        return [f"lost: {what} {name}" for what, name in pairs if what in have and name not in have[what]]

    def approvals(self, acknowledged: Iterable[str], rows: dict[str, tuple[str, str]]) -> list[str]:
        """Each event once, its row and its step with it; what callers were told is there."""
        wrong = [
            f"{kind} twice: {name}"
            for (kind, name), count in self.approval.items()
            if count > 1 and kind in ("approval.asked", "approval.given", "approval.used")
        ]
        for name, (state, step) in rows.items():
            if (state == "used") != (("approval.used", name) in self.approval):
                wrong.append(f"its entry and its row differ: {name}")
            if step in ("opened", "accepted") and state not in ("given", "used"):
                wrong.append(f"a step runs without its approval: {name}")
        pairs = (line.split(" ", 1) for line in acknowledged)
        return wrong + [
            f"lost: {what} {name}"
            for what, name in pairs
            if what in ("asked", "given", "used") and (f"approval.{what}", name) not in self.approval
        ]

"""What is told in lists: what waits, by transaction and by who waits for it, and what persons sign with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwrit_broker.core.approval import ApprovalRecord, Asked
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.plain import plain
from stepwrit_broker.edge.pages.shown import ARGUMENT, STARTED, Moment, Outcome, brake, moment

HINT_LINES: Final = 2
MANY: Final = 3  # approvals that one initiator waits for: worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One approval in the list. arguments: the first of its lines that tell them."""

    id: str
    title: str
    impact: str
    origin: str
    started: str
    initiator: str
    expires: Moment
    braked: Outcome | None
    arguments: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What waits in one transaction. initiators: who waits for how many, most first."""

    txn: str
    purpose: str
    lines: Sequence[Line]
    initiators: Sequence[tuple[str, int]]


def grouped(
    records: Iterable[ApprovalRecord],
    texts: Mapping[str, Sequence[str]],
    standing: Mapping[str, Mark],
    now: float,
) -> tuple[list[Group], list[tuple[str, int]]]:
    """By transaction, the soonest to expire first; and who waits for more than a few in all of them.

    texts: the lines of each, by id.
    """
    live = sorted(
        (each.asked for each in records if now < each.asked.expires_at), key=lambda each: each.expires_at
    )
    by_txn: dict[str, list[Asked]] = {}
    for each in live:
        by_txn.setdefault(each.step.txn, []).append(each)
    groups = [
        _group(txn, [_line(each, texts, standing, now) for each in found], found)
        for txn, found in by_txn.items()
    ]
    return groups, [(who, count) for who, count in _initiators(live) if count >= MANY]


def _group(txn: str, lines: Sequence[Line], found: Sequence[Asked]) -> Group:
    purpose = plain(found[0].step.intent.purpose)
    return Group(txn=txn, purpose=purpose, lines=lines, initiators=_initiators(found))


def _initiators(found: Iterable[Asked]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for each in found:
        who = plain(str(each.step.initiator))
        counts[who] = counts.get(who, 0) + 1
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _line(asked: Asked, texts: Mapping[str, Sequence[str]], standing: Mapping[str, Mark], now: float) -> Line:
    told = [line.removeprefix(ARGUMENT) for line in texts.get(asked.id, ()) if line.startswith(ARGUMENT)]
    return Line(
        id=asked.id,
        title=plain(asked.action.tool),
        impact=asked.action.impact,
        origin=asked.step.origin,
        started=STARTED[asked.step.origin],
        initiator=plain(str(asked.step.initiator)),
        expires=moment(asked.expires_at, now),
        braked=brake(asked, standing),
        arguments=told[:HINT_LINES],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """One authenticator in a person's list."""

    id: str
    label: str
    kind: str
    state: str
    fingerprint: str
    since: Moment


def owned(found: Iterable[Authenticator], now: float) -> list[Owned]:
    """Those that count or may come to count."""
    return [
        Owned(
            id=each.id,
            label=each.label or ("passkey" if each.kind == "passkey" else "key"),
            kind=each.kind,
            state=each.state,
            fingerprint=each.fingerprint,
            since=moment(each.proposed_at, now),
        )
        for each in found
        if each.state != "retired"
    ]

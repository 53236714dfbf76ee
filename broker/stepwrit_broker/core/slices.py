"""Cells of one rate limit for a whole fleet, taken ahead by each broker from one bucket. Pure.

The promise: with T = period / count, in every window [s, t] the fleet uses at most `burst + (t - s) / T`
cells of a key (and a thousandth of one, as `core.limits`): what one broker with `core.limits` would let pass.
It may let pass less. docs/explanation/fleet-limits.md says it at length.

How. The bucket is GCRA's one number, the theoretical arrival time (TAT). A broker takes `wanted` cells at
`now` by its own clock and uses each at most once, at a time u with now <= u <= now + life. The bucket counts
the cells as if all were used at the END of that life, and asks for room as if they were used at its BEGIN:

    TAT' = max(TAT, now + life) + cells * T        only if        TAT' <= now + burst * T

Proof. Let n cells be used within [s, t], in the order in which the bucket gave them. The first has
u <= now1 + life1, and u >= s, so after it TAT >= now1 + life1 + T >= s + T. TAT never falls and each further
cell adds T, so after the n-th TAT >= s + n * T. The n-th was given only as TAT <= now_n + burst * T, and
now_n <= u_n <= t. Hence s + n * T <= t + burst * T, which is the promise. Lives may differ from one taking to
the next; with life 0 it is core.limits' own rule. Messages may be late, lost or never answered and brokers
may die: that only leaves cells unused. Clocks: the times are each broker's own; where clocks differ by e
seconds, an observer with one clock may count e / T cells more, which is why a broker whose clock is off is
not let in (`CLOCKS_APART_S`). The time of a use is the one that its operation has in the ledger.

A new epoch forgets every TAT. A bucket that it has not seen starts as if all its burst had just been spent
when the epoch began (`fills_since`): TAT = since + burst * T. Uses before were at most
burst + (since - s) / T
and those after are at most (t - since) / T: together the same promise. An operation that was charged in the
old epoch cannot be committed in the new one, so that no cell outlives its epoch.

Cells given back count as never taken only while nothing else has moved the TAT: else the refill that came
meanwhile would be counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepwrit_broker.core.limits import RateLimit

LIFE_S = 1.0  # the longest that a cell may wait in a broker
SHARE = 8  # at most this fraction of the burst is in one taking, and of its time in a life
CLOCKS_APART_S = 0.25  # what clocks of a fleet may differ by
SLACK = 1e-3  # of one interval, as in core.limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a broker asks of one bucket. interval: T, seconds. wanted: cells, at least 1. life: seconds for
    which they stay good, 0 for use at once. since: see `fills_since`. now: the time of the operation that
    asks, seconds since the epoch.
    """

    interval: float
    burst: int
    wanted: int
    life: float
    since: float
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The answer. cells: 0 to `wanted`; 0 changes nothing. tat: what stands now, to be shown when cells are
    given back. retry_after: seconds until one more can be had, 0 for now.
    """

    cells: int
    tat: float
    retry_after: float


def take(tat: float | None, ask: Ask) -> Taken:
    """Take what there is, up to what is wanted. tat: what is stored, None where nothing is.

    The engines follow this to the bit, in IEEE doubles and in this order of operations
    (tests/vectors/leases.json). Stored is `tat` of the answer if any cells were given; it may be forgotten
    once every clock of the fleet is past it.
    """
    width = ask.interval * ask.burst
    stands = ask.since + width if tat is None else tat
    start = min(max(stands, ask.now + ask.life), ask.now + ask.interval * (ask.burst + 1))
    room = math.floor((ask.now + width - start) / ask.interval + SLACK)
    cells = max(0, min(ask.wanted, room))
    after = start + cells * ask.interval if cells else stands
    counted = after if cells else start
    early = counted + ask.interval - width - ask.now
    return Taken(cells=cells, tat=after, retry_after=early if early > ask.interval * SLACK else 0.0)


def give_back(tat: float | None, known: float, cells: int, interval: float) -> float | None:
    """The new TAT, or None where the cells are lost because it is not `known` any more.

    known: `Taken.tat` of the very taking that they are of. None of the cells may ever be used.
    """
    return None if tat is None or tat != known else tat - cells * interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How a limit may be taken ahead. most: cells at a time; life: seconds. most = 1 goes with life 0."""

    most: int
    life: float


def slice_of(limit: RateLimit) -> Slice:
    """An eighth of the burst, for an eighth of the time that it takes to fill, at most a second: so that one
    broker never holds what the others live on. A burst under 16 is asked for one by one, and exact.
    """
    most = limit.burst // SHARE
    if most < 2:
        return Slice(most=1, life=0.0)
    return Slice(most=most, life=min(LIFE_S, limit.period_s / limit.count * limit.burst / SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a broker uses one bucket. wanted: what it asked for last; at: when; used: cells since."""

    wanted: int
    at: float
    used: int


def next_wanted(pace: Pace, slice_: Slice, now: float) -> int:
    """What half a life needs at this pace; at most twice the last, so that one hurry is no habit."""
    most, elapsed = min(2 * pace.wanted, slice_.most), now - pace.at
    need = pace.used * slice_.life / 2
    return most if need >= most * elapsed else max(1, math.floor(need / elapsed))


def fills_since(order: int, began_at: float, high: float) -> float:
    """From when on an epoch's buckets fill: the last time at which anything of an earlier one can have been
    used. order: 1 for a fleet's first. high: the latest time of any work that was committed by the beginning
    or later, 0 for none: then the buckets are full.
    """
    return 0.0 if order <= 1 or high <= 0 else min(began_at + CLOCKS_APART_S, high)


def question(limit: RateLimit, wanted: int, since: float, now: float) -> Ask:
    """One cell is for use at once; more are for the slice's life."""
    life = slice_of(limit).life if wanted > 1 else 0.0
    return Ask(
        interval=limit.period_s / limit.count,
        burst=limit.burst,
        wanted=wanted,
        life=life,
        since=since,
        now=now,
    )

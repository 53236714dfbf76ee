"""Issuance limits: the generic cell rate algorithm, concurrency, and a transaction's bounds. Pure.

GCRA keeps one number per key: the theoretical arrival time (TAT), seconds since the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stepwrit_broker.core.errors import Refused

On = Literal["intents", "steps", "credentials", "questions"]
Dimension = Literal["workload", "tool", "resource", "requester", "origin", "tenant", "cause", "peer"]
_SELDOM: tuple[Dimension, ...] = ("cause", "peer")
_SLACK = 1e-3  # of one interval: sums of times in doubles are off by a little, never by a whole cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Within the limit; `tat` is to be stored."""

    tat: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """Over the limit; nothing is to be stored. retry_after: seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """`count` per `period_s` seconds, `burst` at once, for each combination of `per`, where `match` fits.

    One per `cause` counts only what a step caused: the workload that performed it is the value. One per
    `peer`, only what goes to or comes from another trust domain's broker.
    """

    name: str
    on: On
    per: tuple[Dimension, ...]
    match: tuple[tuple[Dimension, str], ...]
    count: int
    period_s: float
    burst: int

    def counts(self, what: Charge) -> bool:
        """Whether it speaks of this charge."""
        is_of_others = any(name in self.per and name not in what.values for name in _SELDOM)
        return self.on == what.on and what.fits(self.match) and not is_of_others

    @property
    def text(self) -> str:
        """As an operator writes it."""
        unit = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day"}.get(self.period_s, f"{self.period_s:g}s")
        return f"{self.count}/{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimit:
    """At most `most` outstanding (issued, not yet ended) credentials for each combination of `per`."""

    name: str
    per: tuple[Dimension, ...]
    match: tuple[tuple[Dimension, str], ...]
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionLimits:
    """Bounds of one transaction: counts, not shares."""

    steps: int
    depth: int
    fan_out: int
    server_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """Ceilings of the clocks, seconds. deferred_s: of a deferred step. run_s: of one of its runs."""

    step_token_s: float
    accepted_s: float
    waiting_s: float
    credential_s: float
    intent_s: float
    heartbeat_s: float = 20.0
    lost_s: float = 60.0
    deferred_s: float = 86_400.0
    run_s: float = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalLimits:
    """How much persons may be asked. Counts of approvals that wait; seconds.

    per_requester: of one person, or one trigger's owner. per_initiator: of one person by one workload.
    cooldown_s: after a denial the same workload asks the same person for the same tool no more. life_s: how
    long one waits.
    """

    per_requester: int = 10
    per_initiator: int = 3
    cooldown_s: float = 300.0
    life_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What stands against one more approval: the counts before it, and the last denial (0: none)."""

    of_requester: int
    of_initiator: int
    denied_at: float


def may_ask(limits: Limits, asked: Asked, now: float) -> None:
    """Raises Refused(`limit`) where one more would be too much for a person."""
    bounds = limits.approvals
    again = asked.denied_at + bounds.cooldown_s
    checks = (
        (asked.of_requester < bounds.per_requester, "per_requester", "too many approvals wait", None),
        (asked.of_initiator < bounds.per_initiator, "per_initiator", "too many approvals wait", None),
        (not asked.denied_at or now >= again, "cooldown", "the same was denied a moment ago", again - now),
    )
    for fits, name, reason, retry_after in checks:
        if not fits:
            raise Refused(
                "limit",
                f"{reason}: persons are not asked at will",
                rule=f"limits v{limits.version} approvals.{name}",
                retry_after=retry_after,
                who_can_change_it=limits.owner,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One version of the operator's limits. Without any rate limit nothing is issued."""

    version: int
    rates: tuple[RateLimit, ...]
    concurrency: tuple[ConcurrencyLimit, ...]
    transaction: TransactionLimits
    lives: Lives
    by: str = "the operator"
    approvals: ApprovalLimits = ApprovalLimits()

    @property
    def owner(self) -> str:
        """Whom a refusal tells to ask: who set this version."""
        return "the operator (limits.yaml)" if self.by == "file" else self.by


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one operation counts against, by dimension."""

    on: On
    values: Mapping[Dimension, str] = field(default_factory=dict)

    def key(self, name: str, per: tuple[Dimension, ...]) -> str:
        """The counter's key: limit name and the values of its dimensions."""
        return "\x1f".join((name, *(self.values.get(dimension, "") for dimension in per)))

    def fits(self, match: tuple[tuple[Dimension, str], ...]) -> bool:
        """Whether a limit with this `match` speaks of this charge."""
        return all(self.values.get(dimension) == value for dimension, value in match)


def spend(limit: RateLimit, tat: float, now: float) -> Allowed | Denied:
    """Spend one cell. `tat`: the stored number, or anything not above `now` for a fresh key.

    A number that a stricter limit left counts at most as a whole burst and one cell of this one, so that a
    limit which is set wider is wider at once.
    """
    interval = limit.period_s / limit.count
    after = min(max(tat, now), now + interval * (limit.burst + 1)) + interval
    early = after - interval * limit.burst - now
    return Denied(retry_after=early) if early > interval * _SLACK else Allowed(tat=after)


def speaking(limits: Limits, what: Charge) -> list[tuple[str, RateLimit]]:
    """The rate limits that speak of this charge, each with its counter's key.

    Raises Refused(`limit`) where no issuance limit is set at all.
    """
    if all(limit.on == "questions" for limit in limits.rates):
        raise Refused("limit", "no issuance limits are set", rule="limits", who_can_change_it=limits.owner)
    return [(what.key(limit.name, limit.per), limit) for limit in limits.rates if limit.counts(what)]


def charge(limits: Limits, what: Charge, tats: Mapping[str, float], now: float) -> dict[str, float]:
    """The new TATs of every rate limit that speaks of this charge.

    Raises Refused(`limit`) naming the limit that is spent for longest; then nothing is to be stored.
    """
    spent: dict[str, float] = {}
    waits: list[tuple[float, RateLimit]] = []
    for key, limit in speaking(limits, what):
        outcome = spend(limit, tats.get(key, 0.0), now)
        if isinstance(outcome, Allowed):
            spent[key] = outcome.tat
        else:
            waits.append((outcome.retry_after, limit))
    if waits:
        raise over(limits, waits)
    return spent


def over(limits: Limits, waits: Sequence[tuple[float, RateLimit]]) -> Refused:
    """The refusal that names the limit which is spent for longest. waits: seconds of each, at least one."""
    retry_after, limit = max(waits, key=lambda wait: wait[0])
    return Refused(
        "limit",
        f"{limit.text} of {limit.on} per {'+'.join(limit.per) or 'broker'} spent",
        rule=f"limits v{limits.version} {limit.name}",
        retry_after=math.ceil(retry_after * 1000) / 1000,  # never a moment too early
        who_can_change_it=limits.owner,
    )


def outstanding_keys(limits: Limits, what: Charge, live: Mapping[str, int]) -> tuple[str, ...]:
    """The counters that one more outstanding credential raises. Raises Refused(`limit`) when one is full."""
    keys: list[str] = []
    for limit in limits.concurrency:
        if not what.fits(limit.match):
            continue
        key = what.key(limit.name, limit.per)
        if live.get(key, 0) >= limit.most:
            raise Refused(
                "limit",
                f"{limit.most} outstanding credentials per {'+'.join(limit.per) or 'broker'}",
                rule=f"limits v{limits.version} {limit.name}",
                retry_after=1.0,
                who_can_change_it=limits.owner,
            )
        keys.append(key)
    return tuple(keys)


def within_fan_out(limits: Limits, children: int) -> None:
    """One more thing comes of a step; `children` is the count before it. Raises Refused(`limit`)."""
    if children >= limits.transaction.fan_out:
        raise Refused(
            "limit",
            f"fan_out of this step: at most {limits.transaction.fan_out}",
            rule=f"limits v{limits.version} transaction.fan_out",
            who_can_change_it=limits.owner,
        )


def within_transaction(
    limits: Limits, *, steps: int, server_steps: int, depth: int, children: int, is_server: bool
) -> None:
    """One more step: counts are those before it, `depth` is its own. Raises Refused(`limit`)."""
    bounds = limits.transaction
    checks = (
        (steps < bounds.steps, "steps", bounds.steps),
        (depth <= bounds.depth, "depth", bounds.depth),
        (children < bounds.fan_out, "fan_out", bounds.fan_out),
        (not is_server or server_steps < bounds.server_steps, "server_steps", bounds.server_steps),
    )
    for ok, name, most in checks:
        if not ok:
            raise Refused(
                "limit",
                f"{name} of this transaction: at most {most}",
                rule=f"limits v{limits.version} transaction.{name}",
                who_can_change_it=limits.owner,
            )

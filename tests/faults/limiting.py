"""Was more issued than the limits allow, over all brokers together? The ledger's times tell.

A rate is checked by the very algorithm that grants it, over the entries of each key in the order of their
times. Where brokers take cells ahead (`held_s`), a cell may be spent so much later than it was counted: the
burst is then wider by what the rate yields in that time, and by nothing else.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.faults.told import Check, Finding, Told

from stepwrit_broker.core.limits import Charge, Denied, Dimension, Limits, On, RateLimit, spend
from stepwrit_broker.registry.limits_file import load_limits

_ENTRIES: dict[str, On] = {
    "intent.opened": "intents",
    "step.opened": "steps",
    "grant.issued": "credentials",
}


def limits_of(told: Told) -> Limits:
    """The limits that the run was held to."""
    return load_limits(told.run.terms.limits, name="limits.yaml")[1]


def charge_of(said: dict[str, Any]) -> Charge:
    """What an entry was charged as; a requester's name is salted there, and so is no key of this check."""
    on = _ENTRIES[said["kind"]]
    who = said.get("performer") if on == "credentials" else said.get("initiator")
    named: dict[Dimension, str | None] = {
        "workload": who,
        "tool": said.get("tool"),
        "resource": said.get("audience"),
        "origin": said.get("origin"),
        "tenant": said.get("tenant"),
    }
    return Charge(on=on, values={name: value for name, value in named.items() if value})


def rates(told: Told) -> Iterator[Finding]:
    """No key of any rate limit had more than its rate and burst."""
    for limit in limits_of(told).rates:
        if "requester" in limit.per:
            continue
        yield from _rate(told, limit)


def _rate(told: Told, limit: RateLimit) -> Iterator[Finding]:
    terms, times = told.run.terms, defaultdict[str, list[float]](list)
    for said, epoch in told.dated:
        if said["kind"] in _ENTRIES and limit.counts(what := charge_of(said)):
            bucket = f" in epoch {epoch}" if terms.is_epoch_fresh else ""
            times[what.key(limit.name, limit.per) + bucket].append(float(said["at"]))
    wider = replace(limit, burst=limit.burst + math.ceil(terms.held_s * limit.count / limit.period_s))
    for key, at in times.items():
        over = _over(wider, sorted(at))
        if over:
            yield Finding("over_rate", f"{limit.name} {key!r}: {over} of {len(at)} beyond {limit.text}")


def _over(limit: RateLimit, times: list[float]) -> int:
    """How many the limit would have refused."""
    tat, over = 0.0, 0
    for at in times:
        outcome = spend(limit, tat, at)
        if isinstance(outcome, Denied):
            over += 1
        else:
            tat = outcome.tat
    return over


def outstanding(told: Told) -> Iterator[Finding]:
    """Never more live credentials than a concurrency limit allows, each until its end or its expiry."""
    ends = _ends(told)
    for limit in limits_of(told).concurrency:
        if "requester" in limit.per:
            continue
        moves = defaultdict[str, list[tuple[float, int]]](list)
        for said in told.of("grant.issued"):
            what = charge_of(said)
            if what.fits(limit.match):
                key = what.key(limit.name, limit.per)
                began, ended = float(said["at"]), ends.get(said["grant"], math.inf)
                over_at = min(ended, float(said["expires_at"])) - told.run.terms.slack_s
                moves[key] += [(began, 1), (max(began, over_at), -1)]
        for key, steps in moves.items():
            if (peak := _peak(steps)) > limit.most:
                yield Finding(
                    "over_outstanding", f"{limit.name} {key!r}: {peak} at once, at most {limit.most}"
                )


def _ends(told: Told) -> dict[str, float]:
    """When each grant ended: by itself, or with its step."""
    steps = {step: float(said["at"]) for step, said in told.ends.items()}
    ends = {g: steps[said["step"]] for g, said in told.issued.items() if said["step"] in steps}
    for said in told.of("grant.redeemed", "grant.expired"):
        ends[said["grant"]] = min(float(said["at"]), ends.get(said["grant"], math.inf))
    return ends


def _peak(moves: list[tuple[float, int]]) -> int:
    live = peak = 0
    for _, by in sorted(moves):
        live += by
        peak = max(peak, live)
    return peak


def transactions(told: Told) -> Iterator[Finding]:
    """No transaction has more steps, no step more children than the limits allow."""
    bounds = limits_of(told).transaction
    opened = list(told.of("step.opened"))
    for what, key, most in (("steps", "txn", bounds.steps), ("fan_out", "parent", bounds.fan_out)):
        for name, count in Counter(said[key] for said in opened).items():
            if count > most:
                yield Finding("over_transaction", f"{what} of {name}: {count}, at most {most}")
    for name, count in Counter(s["txn"] for s in opened if s["origin"] == "server").items():
        if count > bounds.server_steps:
            yield Finding(
                "over_transaction", f"server_steps of {name}: {count}, at most {bounds.server_steps}"
            )


CHECKS: tuple[Check, ...] = (rates, outstanding, transactions)

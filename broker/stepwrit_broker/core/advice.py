"""A question for advice: whether a workload could do something now. Advice opens and mints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwrit_broker.core.ceiling import covers
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.limits import Allowed, Charge, Limits, RateLimit, spend
from stepwrit_broker.core.registry import Entry

_OPERATOR = "the operator (registry.yaml)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked, as the asker says it; nothing of it is believed beyond the names.

    subject: who would do it. resource: the tool, `server/tool`. args: None where the question has none.
    audience, method, url: of a credential. step: the one under which it would be done, or with which; origin,
    chain, requester and ceiling are the broker's own records of that step, never the asker's words.
    approval: the id of one that is said to be given, and is looked up. said: the objects as they were sent,
    to recognise the same question again.
    """

    subject_type: str
    subject: str
    action: str
    resource_type: str
    resource: str
    args: Mapping[str, object] | None = field(default=None, repr=False)
    audience: str | None = None
    method: str | None = None
    url: str | None = None
    deferred: bool = False
    step: str | None = None
    approval: str | None = None
    said: Mapping[str, Mapping[str, object]] = field(default_factory=dict, repr=False)


def check_asker(entry: Entry) -> None:
    """The registry lets this workload ask about some tool. Raises Refused(`wrong_workload`)."""
    if not entry.may_ask:
        raise Refused(
            "wrong_workload",
            "the registry does not let this workload ask for advice",
            rule="registry may_ask",
            who_can_change_it=_OPERATOR,
        )


def check_reach(entry: Entry, tool: str) -> None:
    """… and about this one. Depends on nothing but the asker's own entry. Raises Refused(`ceiling`)."""
    if not any(covers(pattern, tool) for pattern in entry.may_ask):
        raise Refused(
            "ceiling",
            "the registry does not let this workload ask about that tool",
            rule="registry may_ask",
            who_can_change_it=_OPERATOR,
        )


def charge(
    limits: Limits, what: Charge, count: int, tats: Mapping[str, float], now: float
) -> dict[str, float]:
    """The new TATs after `count` questions at once, all or none.

    Raises Refused(`limit`): one is spent, or no limit of the operator's speaks of questions.
    """
    speaking = [each for each in limits.rates if each.on == "questions" and what.fits(each.match)]
    if not speaking:
        raise Refused(
            "limit",
            "no limit on questions is set, so none is answered",
            rule=f"limits v{limits.version}",
            who_can_change_it=limits.owner,
        )
    return {what.key(each.name, each.per): _spent(limits, each, what, count, tats, now) for each in speaking}


def _spent(
    limits: Limits, limit: RateLimit, what: Charge, count: int, tats: Mapping[str, float], now: float
) -> float:
    tat, wait = tats.get(what.key(limit.name, limit.per), 0.0), 0.0
    for _ in range(count):
        outcome = spend(limit, tat, now)
        if isinstance(outcome, Allowed):
            tat = outcome.tat
        else:
            wait += outcome.retry_after if not wait else limit.period_s / limit.count
    if wait:
        raise Refused(
            "limit",
            f"{limit.text} of questions per {'+'.join(limit.per) or 'broker'}, {limit.burst} at once",
            rule=f"limits v{limits.version} {limit.name}",
            retry_after=None if count > limit.burst else round(wait + 0.0005, 3),
            who_can_change_it=limits.owner,
        )
    return tat

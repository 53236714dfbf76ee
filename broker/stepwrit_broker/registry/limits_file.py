"""limits.yaml: the operator's bounds on issuance. Read, checked, stored, compiled, edited.

A file with a problem changes nothing: Malformed lists every problem, and the caller keeps what is in force.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from stepwrit.wire import ACCEPTED_MAX_S, CREDENTIAL_MAX_S, STEP_TOKEN_MAX_S
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.limits import (
    ApprovalLimits,
    ConcurrencyLimit,
    Limits,
    Lives,
    RateLimit,
    TransactionLimits,
)
from stepwrit_broker.registry.document import StoredDoc, from_doc, from_text, store
from stepwrit_broker.registry.marked import Problem
from stepwrit_broker.registry.units import rate, seconds

DAY_S: Final = 86_400.0
# name: what is taken when the file is silent, the longest that is taken (seconds)
_LIVES: Final[dict[str, tuple[str, float]]] = {
    "step_token": ("60s", STEP_TOKEN_MAX_S),
    "accepted": ("15m", ACCEPTED_MAX_S),
    "waiting": ("15m", DAY_S),
    "credential": ("60s", CREDENTIAL_MAX_S),
    "intent": ("1h", DAY_S),
    "deferred": ("24h", DAY_S),
    "run": ("1h", DAY_S),
}


_APPROVALS: Final[dict[str, tuple[str, float]]] = {"cooldown": ("5m", 1800.0), "life": ("15m", 3600.0)}


def load_limits(text: str, *, name: str, by: str = "the operator (limits.yaml)") -> tuple[StoredDoc, Limits]:
    """The stored document of a file named `name`, and the limits it means (version 0: not applied yet).

    Raises Malformed(`invalid_request`): one line `name:line:column: what` for each problem.
    """
    stored = from_text(text, name, "limits", limits_problems)
    return stored, compile_limits(stored.doc, 0, by=by)


def compile_limits(doc: str, version: int, *, by: str = "the operator (limits.yaml)") -> Limits:
    """The limits of a stored document. `by`: who refusals name. Raises Malformed when it does not fit."""
    read = from_doc(doc, "limits", limits_problems)
    life = {name: seconds(read.get("life", {}).get(name, silent)) for name, (silent, _) in _LIVES.items()}
    return Limits(
        version=version,
        rates=tuple(_rate(each) for each in read["rates"]),
        concurrency=tuple(_concurrency(each) for each in read.get("concurrency", ())),
        transaction=TransactionLimits(**read["transaction"]),
        lives=Lives(**{f"{name}_s": value for name, value in life.items()}),
        by=by,
        approvals=_approvals(read.get("approvals", {})),
    )


def set_rate(doc: str, name: str, wanted: str, burst: int | None = None) -> StoredDoc:
    """The document with another rate for the limit `name`, such as `10/min`; `burst` stays when it is None.

    Raises Malformed for a name that is not there and for what does not fit.
    """
    read = from_doc(doc, "limits", limits_problems)
    found = next((each for each in read["rates"] if each["name"] == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [each["name"] for each in read["rates"]], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Malformed("invalid_request", f"there is no rate limit named {name[:64]!r}{hint}")
    found["rate"] = wanted
    if burst is not None:
        found["burst"] = burst
    stored = store(read)
    from_doc(stored.doc, "limits", limits_problems)
    return stored


def limits_problems(doc: dict[str, Any]) -> list[Problem]:
    """Every problem of meaning in a document of the right shape."""
    problems: list[Problem] = []
    if doc["count"] != len(doc["rates"]):
        problems.append((("count",), f"says {doc['count']}, but there are {len(doc['rates'])} rates"))
    return (
        problems
        + _twice(doc)
        + _of_questions(doc)
        + _of_causes(doc)
        + _too_long("life", doc.get("life", {}), _LIVES)
        + _too_long("approvals", doc.get("approvals", {}), _APPROVALS)
    )


def _of_questions(doc: dict[str, Any]) -> list[Problem]:
    """Whoever asks for advice is counted, not what is asked about: a counter for that could be chosen."""
    return [
        (("rates", number, key), f"{name} is not counted for questions; there are workload and tenant")
        for number, each in enumerate(doc["rates"])
        if each["on"] == "questions"
        for key in ("per", "match")
        for name in each.get(key, ())
        if name not in ("workload", "tenant")
    ]


def _of_causes(doc: dict[str, Any]) -> list[Problem]:
    """Only an intent has a cause: elsewhere such a limit would count nothing."""
    return [
        (("rates", number, key), "only intents are counted by their cause")
        for number, each in enumerate(doc["rates"])
        if each["on"] not in ("intents", "questions")
        for key in ("per", "match")
        if "cause" in each.get(key, ())
    ]


def _twice(doc: dict[str, Any]) -> list[Problem]:
    """One namespace: refusals, metrics and commands name a limit by its name alone."""
    seen: set[str] = set()
    problems: list[Problem] = []
    for kind in ("rates", "concurrency"):
        for number, each in enumerate(doc.get(kind, ())):
            if each["name"] in seen:
                problems.append(((kind, number, "name"), f"{each['name']} names another limit already"))
            seen.add(each["name"])
    return problems


def _too_long(section: str, life: dict[str, str], known: dict[str, tuple[str, float]]) -> list[Problem]:
    return [
        ((section, name), f"must be 1 to {most:g} seconds")
        for name, (_, most) in known.items()
        if name in life and not 1 <= seconds(life[name]) <= most
    ]


def _approvals(read: dict[str, Any]) -> ApprovalLimits:
    given: dict[str, Any] = {name: read[name] for name in ("per_requester", "per_initiator") if name in read}
    given |= {f"{name}_s": seconds(read.get(name, silent)) for name, (silent, _) in _APPROVALS.items()}
    return ApprovalLimits(**given)


def _rate(read: dict[str, Any]) -> RateLimit:
    count, period_s = rate(read["rate"])
    return RateLimit(
        name=read["name"],
        on=read["on"],
        per=tuple(read["per"]),
        match=tuple(sorted(read.get("match", {}).items())),
        count=count,
        period_s=period_s,
        burst=read["burst"],
    )


def _concurrency(read: dict[str, Any]) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        name=read["name"],
        per=tuple(read["per"]),
        match=tuple(sorted(read.get("match", {}).items())),
        most=read["max"],
    )

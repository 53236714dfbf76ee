"""What a permit demands beside its yes: a closed set. What is not of it, or not of its shape, is a no. Pure.

| name | value | who fulfils it |
|---|---|---|
| max_life | whole seconds, 5 to 900 | each credential of the step, and of all below it, lives no longer |
| fan_out | a whole number to 1000 | the store: so many children of the step, never one more |
| require | x509, mtls, dpop | the one who asks must be so attested and so bound, now |
| redact | names of facts | they are left out of what is kept of decisions, here and below |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from stepwrit.wire import CREDENTIAL_MAX_S
from stepwrit_broker.core.workload import Workload

Name = Literal["max_life", "fan_out", "require", "redact"]
Demand = Literal["x509", "mtls", "dpop"]
LIFE_MIN_S: Final = 5  # less and a credential may be over before it is delivered
FAN_OUT_MAX: Final = 1000
EVERY_FACT: Final = "*"
WORDS_MAX: Final = 32
_FACT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,5}")
_DEMANDS: Final = ("x509", "mtls", "dpop")
_HANDED_DOWN: Final = frozenset({"max_life", "redact"})


@dataclass(frozen=True, slots=True, order=True)
class Obligation:
    """One, by the policy that states it. value: one number, or one word; of several words each is one."""

    name: str
    value: str
    policy: str

    @property
    def as_json(self) -> dict[str, str]:
        """As it is recorded."""
        return {"name": self.name, "value": self.value, "policy": self.policy}

    def __str__(self) -> str:
        """As the `rule` of a refusal ends: policy, name and value."""
        return f"{self.policy} obligation {self.name}={self.value}"


def read(policy: str, name: str, value: str) -> tuple[Obligation, ...]:
    """What a policy states under this name. Raises ValueError in the author's words."""
    kind = _KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown obligation {name!r}; known are {', '.join(_KINDS)}")
    return tuple(Obligation(name, each, policy) for each in kind(name, value))


def strictest(found: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """What several come to: all hold, of one kind the strictest; each by the first policy that says so."""
    kept: dict[tuple[str, str], Obligation] = {}
    for each in sorted(found, key=lambda one: (one.name, _weight(one), one.policy)):
        kept.setdefault((each.name, "" if each.name in _CAPS else each.value), each)
    return tuple(kept.values())


def cap(found: Iterable[Obligation], name: Literal["max_life", "fan_out"]) -> Obligation | None:
    """The obligation of this name; None where there is none."""
    return next((each for each in strictest(found) if each.name == name), None)


def redacted(found: Iterable[Obligation]) -> frozenset[str]:
    """The names of the facts whose values are not to be kept."""
    return frozenset(each.value for each in found if each.name == "redact")


def handed_down(found: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Those that hold for what a step starts, too."""
    return tuple(each for each in found if each.name in _HANDED_DOWN)


def proved(who: Workload, jkt: str | None) -> frozenset[Demand]:
    """Which demands the one who asks meets in this request. jkt: of the key that they proved to hold."""
    met: dict[Demand, bool] = {
        "x509": who.attested_by == "x509",
        "mtls": who.attested_by == "x509" and who.via is None,
        "dpop": jkt is not None,
    }
    return frozenset(demand for demand, is_met in met.items() if is_met)


def unmet(found: Iterable[Obligation], met: frozenset[Demand]) -> Obligation | None:
    """The first demand that is not among those met, or obligation that is none of these; None without one."""
    for each in found:
        if each.name not in _KINDS or (each.name == "require" and each.value not in met):
            return each
    return None


def shown(facts: Mapping[str, object], hidden: frozenset[str]) -> dict[str, object]:
    """The facts without those that are not to be kept; EVERY_FACT among their names hides all."""
    every = EVERY_FACT in hidden
    return {name: value for name, value in facts.items() if not every and name not in hidden}


def texts(found: Iterable[Obligation]) -> dict[str, str]:
    """By name, the value as a policy would write it: words in order, with commas."""
    said: dict[str, list[str]] = {}
    for each in strictest(found):
        said.setdefault(each.name, []).append(each.value)
    return {name: ",".join(words) for name, words in said.items()}


def _weight(one: Obligation) -> tuple[int, str]:
    return (int(one.value), "") if one.name in _CAPS else (0, one.value)


def _whole(low: int, high: int) -> Callable[[str, str], list[str]]:
    def check(name: str, value: str) -> list[str]:
        if not _NUMBER.fullmatch(value) or not low <= int(value) <= high:
            raise ValueError(f"obligation {name}: a whole number from {low} to {high}")
        return [value]

    return check


def _words(fits: Callable[[str], object], what: str) -> Callable[[str, str], list[str]]:
    def check(name: str, value: str) -> list[str]:
        words = value.split(",")
        if not all(map(fits, words)) or len(set(words)) < len(words) or len(words) > WORDS_MAX:
            raise ValueError(f"obligation {name}: {what}, with commas between them, none twice")
        return words

    return check


_CAPS: Final = frozenset({"max_life", "fan_out"})
_KINDS: Final[Mapping[str, Callable[[str, str], list[str]]]] = {
    "max_life": _whole(LIFE_MIN_S, int(CREDENTIAL_MAX_S)),
    "fan_out": _whole(0, FAN_OUT_MAX),
    "require": _words(_DEMANDS.__contains__, f"of {', '.join(_DEMANDS)}"),
    "redact": _words(_FACT.fullmatch, "names of facts"),
}

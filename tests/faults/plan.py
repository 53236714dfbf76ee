"""The schedule of faults: a pure function of seed, length and what there is to hurt.

The same seed makes the same schedule; what the machine makes of it differs from run to run as far as
processes take their time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUIET_S = 2.0  # at the beginning, so that there is something to lose


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault: when it begins (seconds after the start), how long it lasts, how much of it."""

    at: float
    kind: str
    target: str
    seconds: float
    amount: float = 0.0

    @property
    def text(self) -> str:
        """For a person."""
        amount = f" {self.amount:+g}" if self.amount else ""
        return f"{self.at:7.2f}s {self.kind} {self.target}{amount} for {self.seconds:.2f}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a fault lasts, how much of it there is (one of these), how often beside other kinds."""

    seconds: tuple[float, float] = (0.5, 3.0)
    amounts: tuple[float, ...] = (0.0,)
    weight: int = 1


Kinds = Mapping[str, tuple[Bounds, Sequence[str]]]  # a kind of fault: its bounds, its possible targets


def schedule(
    seed: int, seconds: float, kinds: Kinds, gap: tuple[float, float] = (0.3, 2.0)
) -> list[Injection]:
    """Faults for a run of so many seconds, all healed by its end.

    Kinds are drawn from a bag that is filled again when it is empty: none is left out for long.
    """
    chance, bag, plan = random.Random(seed), list[str](), list[Injection]()
    at = QUIET_S
    while kinds:
        if not bag:
            bag = [kind for kind, (bounds, _) in sorted(kinds.items()) for _ in range(bounds.weight)]
            chance.shuffle(bag)
        kind = bag.pop()
        bounds, targets = kinds[kind]
        lasts = chance.uniform(*bounds.seconds)
        if at + lasts > seconds:
            break
        plan.append(
            Injection(at=round(at, 2), kind=kind, target=chance.choice(list(targets)),
                      seconds=round(lasts, 2), amount=chance.choice(bounds.amounts))
        )  # fmt: skip
        at += chance.uniform(*gap) + lasts * chance.choice((0.0, 0.5, 1.0))  # some meet, some do not
    return plan

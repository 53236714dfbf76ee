"""Ask an engine every case of a suite, and tell what differs from what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stepwrit_broker.core.answer import Answer, answer_of
from stepwrit_broker.ports import PolicyEngine
from stepwrit_broker.rehearsal.suite import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case and what came. No differences: as expected."""

    case: Case
    came: Answer
    differences: tuple[str, ...]

    @property
    def is_as_expected(self) -> bool:
        """Whether everything that the scenario says came."""
        return not self.differences


async def ask(engine: PolicyEngine, cases: Iterable[Case]) -> list[Outcome]:
    """Every case in order. Raises Unavailable when the engine is in doubt: that is no answer."""
    return [await _asked(engine, case) for case in cases]


async def _asked(engine: PolicyEngine, case: Case) -> Outcome:
    came = answer_of(await engine.decide(case.question))
    return Outcome(case=case, came=came, differences=tuple(case.expected.differences(came)))

"""The in-memory broker: what it tells performers of steps that others ended."""

from __future__ import annotations

from typing import Final

from stepwrit._testing_books import StepRow
from stepwrit.wire_ended import EndedStep, EndedSteps

_CURSOR: Final = "memory"


class Endings:
    """Ends of steps, oldest first, for those who run them."""

    def __init__(self) -> None:
        self._told: Final[list[tuple[str, EndedStep]]] = []

    def tell(self, row: StepRow, state: str) -> None:
        """One that runs is ended by others."""
        self._told.append((row.performer, EndedStep(step=row.id, state=state, ref=row.ref)))

    def since(self, performer: str, after: str | None) -> EndedSteps:
        """Those of this performer; without a cursor of ours anything may be missing."""
        name, _, number = (after or "").partition(".")
        known = name == _CURSOR and number.isdigit() and int(number) <= len(self._told)
        fresh = self._told[int(number) :] if known else []
        steps = tuple(each for who, each in fresh if who == performer)
        return EndedSteps(after=f"{_CURSOR}.{len(self._told)}", steps=steps, complete=known)

"""What a run left behind, with what its ledger says read once; and what a check of it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from tests.faults.observed import Run


class Finding(NamedTuple):
    """One violation. kind: which promise; what: who and when, for a person."""

    kind: str
    what: str


class Told:
    """A run with what its ledger says, read once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.facts: list[dict[str, Any]] = [entry.facts for entry in sorted(run.entries, key=lambda e: e.seq)]

    def of(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The entries of these kinds, in order."""
        return (said for said in self.facts if said["kind"] in kinds)

    @cached_property
    def dated(self) -> list[tuple[dict[str, Any], str]]:
        """Each entry with the epoch it is of: its own word, else the last that any entry named before."""
        epoch, dated = "", []
        for said in self.facts:
            epoch = said.get("epoch") or epoch
            dated.append((said, epoch))
        return dated

    @cached_property
    def uses(self) -> Counter[str]:
        """How often the ledger has each grant spent."""
        return Counter(said["grant"] for said in self.of("grant.redeemed", "grant.self"))

    @cached_property
    def issued(self) -> dict[str, dict[str, Any]]:
        """The entries of grants, by id."""
        return {said["grant"]: said for said in self.of("grant.issued", "grant.self")}

    @cached_property
    def steps(self) -> dict[str, dict[str, Any]]:
        """How each step was opened, by id."""
        return {said["step"]: said for said in self.of("step.opened", "intent.opened")}

    @cached_property
    def ends(self) -> dict[str, dict[str, Any]]:
        """How each step ended, by id."""
        return {said["step"]: said for said in self.of("step.closed", "step.expired")}

    def above(self, step: str) -> Iterator[str]:
        """The step and all that it hangs on."""
        seen = 0
        while step and seen < 100:
            yield step
            step, seen = (self.steps.get(step) or {}).get("parent") or "", seen + 1


Check = Callable[[Told], Iterator[Finding]]

"""Answer those who ask: charged to the asker, on record within a rate, in the asker's own tenant only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from stepwrit_broker.core.advice import Asked, charge, check_asker
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.limits import Charge
from stepwrit_broker.flows.evaluate import Answer, evaluate
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.refusals import CappedRecorder
from stepwrit_broker.ports import Evidence, Happening

Semantic = Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"]
_ENDS_AT: dict[Semantic, bool | None] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}


@dataclass(slots=True, kw_only=True)
class AnswerRecorder(CappedRecorder):
    """Answers are entries, as refusals are. A name is written only where the registry or the store has it."""

    counted: str = "question.counted"

    async def note(self, asker: Caller, answer: Answer) -> None:
        """One entry, or one more to count. Raises Unavailable: then there is no answer."""
        said = "permit" if answer.problem is None else answer.problem.code
        if self.may_write(asker, said, answer.at):
            await self.store.record(_told(asker, answer))


@dataclass(slots=True, kw_only=True)
class Adviser:
    """Answers questions. _tats: what each asker spent since this process began, bounded by the registry."""

    house: House
    recorder: AnswerRecorder
    _tats: dict[str, float] = field(default_factory=dict)

    def admit(self, asker: Caller) -> None:
        """Whether this workload may ask at all. Raises Refused(`wrong_workload`)."""
        check_asker(asker.entry)

    async def answer(
        self, asker: Caller, asked: Sequence[Asked | Malformed], semantic: Semantic = "execute_all"
    ) -> list[Answer]:
        """One answer each, in order, up to the first that ends it. All are charged for before the first.

        Raises Refused(`wrong_workload`, `limit`), Unavailable.
        """
        self.admit(asker)
        self._charge(asker, len(asked))
        answers: list[Answer] = []
        for each in asked:
            answers.append(await evaluate(self.house, asker, each))
            if answers[-1].decision is _ENDS_AT[semantic]:
                break
        await asyncio.gather(*(self.recorder.note(asker, each) for each in answers))
        return answers

    def _charge(self, asker: Caller, count: int) -> None:
        """All below one pattern of the registry share its counter: IDs are free."""
        limits = self.house.settings.now_in_force().limits
        what = Charge(on="questions", values={"workload": asker.entry.id, "tenant": asker.entry.tenant})
        self._tats.update(charge(limits, what, count, self._tats, self.house.clock.now()))


def _told(asker: Caller, answer: Answer) -> Happening:
    problem, workload = answer.problem, asker.workload
    facts: dict[str, object] = {
        "caller": workload.id,
        "role": asker.entry.role,
        "svid": workload.serial,
        "attested_by": workload.attested_by,
        **({} if workload.via is None else {"via": workload.via}),
        "answer": "permit" if problem is None else "deny",
        "code": None if problem is None else problem.code,
        "reason": None if problem is None else problem.reason,
        "rule": f"policy v{answer.versions.policy} {','.join(answer.policies)}"
        if problem is None
        else problem.rule,
        **answer.about,
    }
    return Happening(
        kind="question.answered",
        ref=answer.ref,
        tenant=asker.entry.tenant,
        txn=answer.about.get("txn"),
        evidence=Evidence(facts=facts),
        now=answer.at,
    )

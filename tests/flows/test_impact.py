"""Impact reports: on record, and what an activation can be made to need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.flows.test_shadow import until
from tests.flows.test_shadowing import FOLDER, OPS, Memory, Theatre

from stepwrit_broker.core.errors import Conflict, Refused, Unavailable
from stepwrit_broker.flows import impact as module
from stepwrit_broker.flows.candidates import Wanted
from stepwrit_broker.flows.impact import Activation, Impact

FOUND = {"asked": 9, "effects": {"newly refused": 2}, "not_asked_again": {"counted": 3, "erased": 1}}
NEW = "digest of new"


class Council(Theatre):
    """A theatre with impact reports; the fake candidate has the digest of whatever text it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reports, self.found = Memory(), dict(FOUND)
        self.impact = self.again()

    def again(self, *, needs: bool = True, valid_s: float = 3600.0) -> Impact:
        made = Impact(
            self.desk,
            keeper=self.reports,
            shadow=self.shadowing.found,
            activation=Activation(needs_impact=needs, valid_s=valid_s),
        )
        self.office.live.gate = made.admitted
        return made

    async def report(self, text: str = "new") -> Mapping[str, Any]:
        opened = self.workshop.open

        async def open_(given: str) -> Any:
            candidate = await opened(given)
            candidate.digest, candidate.report = f"digest of {given}", self.found
            return candidate

        self.workshop.open = open_  # type: ignore[method-assign]
        try:
            wanted = Wanted(text=text, version=None, label="policy/")
            return await self.impact.impact(wanted, since=100.25, by=OPS)
        finally:
            self.workshop.open = opened  # type: ignore[method-assign]

    async def put(self, text: str = "new", *, accepts: bool = False) -> Any:
        return await self.office.live.apply(
            "policy", text, source="p", by=OPS, reason="why", accepts_impact=accepts
        )

    def activation(self) -> Mapping[str, Any]:
        return self.entries("version.applied")[-1]


@pytest.fixture
async def council(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Council]:
    monkeypatch.setattr("stepwrit_broker.flows.shadow.GATHER_S", 0.0)
    one = Council(tmp_path / "store.db")
    await one.office.all()
    yield one
    await one.shadowing.close()
    await one.office.store.close()


async def test_a_report_is_told_and_on_record(council: Council) -> None:
    told = await council.report()
    assert (told["digest"], told["live"]) == (NEW, {"version": 1, "digest": "digest of one two"})
    assert (told["replay"], told["shadow"], told["needed"]) == (FOUND, None, True)
    assert told["valid_until"] == council.clock.time + 3600
    assert not told["is_in_force"]
    (entry,) = council.entries("policy.impact")
    assert (entry["ref"], entry["digest"], entry["live"], entry["by"]) == (told["ref"], NEW, 1, "uid 0")
    assert (entry["asked"], entry["effects"], entry["not_asked_again"]) == (9, {"newly refused": 2}, 4)
    made = council.workshop.made[-1]
    assert made.closed
    assert made.replayed[0]["since"] == 100.25


async def test_it_says_what_a_shadow_of_the_same_policy_found(council: Council) -> None:
    await council.start()
    council.workshop.made[0].digest = NEW
    council.shadowing._running.about = _with(council.shadowing._running.about, NEW)  # type: ignore[union-attr]
    await council.decide()
    await until(lambda: council.ears.compared.total() == 1)
    told = await council.report()
    assert told["shadow"]["compared"] == 1
    assert council.entries("policy.impact")[0]["shadow"] == {"compared": 1, "effects": {}}
    assert (await council.report("another"))["shadow"] is None


def _with(about: Any, digest: str) -> Any:
    from dataclasses import replace

    return replace(about, digest=digest)


async def test_without_a_report_nothing_is_put_in_force_and_with_one_it_is(council: Council) -> None:
    with pytest.raises(Conflict) as no:
        await council.put()
    assert no.value.code == "wrong_state"
    assert no.value.rule == "policy.activation_needs"
    assert "no impact report of exactly this policy" in no.value.reason
    told = await council.report()
    with pytest.raises(Conflict):
        await council.put("newer")
    assert (await council.put()).number == 2
    kept = council.activation()["impact"]
    assert (kept["ref"], kept["by"], kept["asked"]) == (told["ref"], "uid 0", 9)
    assert kept["effects"] == {"newly refused": 2}


async def test_an_operator_can_accept_what_nobody_looked_at_and_the_record_says_so(council: Council) -> None:
    assert (await council.put(accepts=True)).number == 2
    assert council.activation()["impact"] == {"accepted": "there is no impact report of exactly this policy"}


async def test_a_report_does_not_stay_good_for_ever(council: Council) -> None:
    told = await council.report()
    council.clock.advance(3601)
    with pytest.raises(Conflict) as no:
        await council.put()
    assert no.value.reason.startswith(f"the impact report {told['ref']} of this policy is too old")
    await council.report()
    assert (await council.put()).number == 2


async def test_a_report_is_of_one_pair_of_policies(council: Council) -> None:
    await council.report("new")
    await council.report("other")
    assert (await council.put("other")).number == 2
    with pytest.raises(Conflict) as no:
        await council.put("new")
    assert "was made while v1 was in force" in no.value.reason


async def test_going_back_needs_no_report(council: Council) -> None:
    await council.report()
    await council.put()
    undone = await council.office.live.undo("policy", None, by=OPS, reason="mistake")
    assert (undone.number, undone.digest) == (3, "digest of one two")
    assert "impact" not in council.activation()


async def test_other_documents_need_none(council: Council) -> None:
    assert (await council.office.apply("registry", "three")).number == 2


async def test_the_first_policy_needs_none(tmp_path: Path) -> None:
    council = Council(tmp_path / "store.db")
    assert (await council.put()).number == 1
    assert (await council.report())["live"] == {"version": 1, "digest": NEW}
    await council.office.store.close()


async def test_before_any_policy_a_report_says_that_none_is_in_force(tmp_path: Path) -> None:
    council = Council(tmp_path / "store.db")
    assert (await council.report())["live"] is None
    await council.office.store.close()


async def test_where_none_is_demanded_a_report_is_still_on_record(council: Council) -> None:
    council.again(needs=False)
    await council.put("free")
    assert "impact" not in council.activation()
    council.impact = council.again(needs=False)
    await council.report()
    await council.put()
    assert council.activation()["impact"]["asked"] == 9


async def test_reports_are_known_after_a_restart_and_only_so_many(
    council: Council, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORTS_MAX", 2)
    for text in ("one", "two", "new"):
        await council.report(text)
    assert [each["digest"] for each in council.reports.kept["reports"]] == ["digest of two", NEW]
    council.impact = council.again()
    assert (await council.put()).number == 2


async def test_one_report_is_made_at_a_time(council: Council) -> None:
    opened = council.workshop.open

    async def stuck(given: str) -> Any:
        candidate = await opened(given)
        candidate.gate.clear()
        candidate.report = council.found
        return candidate

    council.workshop.open = stuck  # type: ignore[method-assign]
    first = asyncio.create_task(council.impact.impact(FOLDER, since=0, by=OPS))
    await until(lambda: bool(council.workshop.made and council.workshop.made[-1].replayed))
    with pytest.raises(Conflict):
        await council.impact.impact(FOLDER, since=0, by=OPS)
    council.workshop.made[-1].gate.set()
    assert (await first)["asked"] == 9


async def test_what_is_not_on_record_is_no_report(council: Council) -> None:
    council.reports.fails = True
    with pytest.raises(Unavailable):
        await council.report()
    with pytest.raises(Conflict):
        await council.put()
    council.reports.fails = False
    council.workshop.fails = Unavailable("unavailable", "OPA is away")
    with pytest.raises(Unavailable):
        await council.report()
    with pytest.raises(Refused):
        await council.impact.impact(Wanted(text=None, version=9, label="v9"), since=0, by=OPS)

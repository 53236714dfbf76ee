"""Starting, stopping and resuming a shadow: audited acts, over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import SeededEntropy
from tests.flows.test_settings import Office
from tests.flows.test_shadow import Ears, FakeCandidate, until
from tests.policy.world import Scene, opening

from stepwrit_broker.core.errors import Conflict, Malformed, Refused, Unavailable
from stepwrit_broker.flows import shadowing as module
from stepwrit_broker.flows.candidates import Desk, Wanted
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.shadowing import Shadowing
from stepwrit_broker.ledger.view import SqliteLedgerView

OPS, EVE = Operator(name="uid 0"), Operator(name="uid 7")
FOLDER = Wanted(text="the texts", version=None, label="policy/")


class FakeWorkshop:
    """The Workshop port: every policy is the one candidate, unless it `fails`."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.made: list[FakeCandidate] = []
        self.given: list[str] = []

    async def open(self, text: str) -> FakeCandidate:
        if self.fails is not None:
            raise self.fails
        self.given.append(text)
        self.made.append(FakeCandidate())
        return self.made[-1]

    async def reopen(self, doc: str) -> FakeCandidate:
        return await self.open(doc)


class Memory:
    """The Keeper port. `fails`: nothing is kept any more."""

    def __init__(self) -> None:
        self.kept: Mapping[str, Any] = {}
        self.fails = False

    def load(self) -> Mapping[str, Any]:
        return self.kept

    async def save(self, kept: Mapping[str, Any]) -> None:
        if self.fails:
            raise Unavailable("unavailable", "disk", rule="rehearsal")
        self.kept = kept


class Theatre:
    """Live settings on a real store, with a shadow."""

    def __init__(self, path: Path) -> None:
        self.office = Office(path)
        self.clock: FakeClock = self.office.clock
        self.workshop, self.keeper, self.ears = FakeWorkshop(), Memory(), Ears()
        self.desk = Desk(
            store=self.office.store, clock=self.clock, entropy=SeededEntropy(5), workshop=self.workshop
        )
        self.shadowing = self.fresh()

    def fresh(self) -> Shadowing:
        """As after a restart."""
        return Shadowing(self.desk, live=self.office.live, keeper=self.keeper, heard=self.ears)

    def entries(self, *kinds: str) -> list[Mapping[str, Any]]:
        view = SqliteLedgerView(self.office.path)
        try:
            return [each.facts or {} for each in view.tail(-1, 1000, kinds, None)]
        finally:
            view.close()

    async def decide(self) -> None:
        """One decision of the live policy."""
        await self.office.live.now_in_force().policy.decide(opening(Scene(origin="model", impact="low")))

    async def start(self) -> Mapping[str, Any]:
        return await self.shadowing.start(FOLDER, by=OPS, reason="a week")


@pytest.fixture
async def theatre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Theatre]:
    monkeypatch.setattr("stepwrit_broker.flows.shadow.GATHER_S", 0.0)
    one = Theatre(tmp_path / "store.db")
    await one.office.all()
    yield one
    await one.shadowing.close()
    await one.office.store.close()


async def test_a_shadow_hears_from_its_start_to_its_end_and_both_are_on_record(theatre: Theatre) -> None:
    await theatre.decide()
    told = await theatre.start()
    assert (told["state"], told["shadow"]["candidate"], told["shadow"]["compared"]) == (
        "running",
        "policy/",
        0,
    )
    assert theatre.ears.runs
    await theatre.decide()
    await until(lambda: theatre.ears.compared.total() == 1)
    theatre.clock.advance(60)
    ended = await theatre.shadowing.stop(by=EVE, reason="enough")
    assert (ended["compared"], ended["ended_by"], ended["ended_at"]) == (1, "uid 7", theatre.clock.time)
    await theatre.decide()
    assert theatre.ears.compared.total() == 1
    assert not theatre.ears.runs
    assert theatre.workshop.made[0].closed
    started, stopped = theatre.entries("shadow.started", "shadow.stopped")
    assert (started["by"], started["reason"], started["digest"]) == ("uid 0", "a week", "sha256-c")
    assert (stopped["by"], stopped["reason"], stopped["started"]) == ("uid 7", "enough", started["ref"])
    assert (stopped["compared"], stopped["same"], stopped["dropped"]) == (1, 1, 0)
    status = await theatre.shadowing.status()
    assert (status["state"], status["shadow"], status["last"]) == ("off", None, ended)


async def test_it_survives_activations_of_the_live_policy(theatre: Theatre) -> None:
    await theatre.start()
    await theatre.decide()
    await theatre.office.apply("policy", "three")
    await theatre.decide()
    await until(lambda: theatre.ears.compared.total() == 2)
    status = await theatre.shadowing.status()
    assert status["shadow"]["decided_under"] == {"v1": 1, "v2": 1}
    assert status["live"] == {"version": 2, "digest": "digest of three"}
    assert not status["shadow"]["is_in_force"]


async def test_it_says_when_the_candidate_itself_is_in_force(theatre: Theatre) -> None:
    await theatre.start()
    await theatre.office.live.put("policy", "x", "sha256-c", by=OPS, reason="good")
    assert (await theatre.shadowing.status())["shadow"]["is_in_force"]


async def test_there_is_one_at_a_time(theatre: Theatre) -> None:
    await theatre.start()
    with pytest.raises(Conflict):
        await theatre.start()
    await theatre.shadowing.stop(by=OPS, reason="x")
    with pytest.raises(Refused) as none:
        await theatre.shadowing.stop(by=OPS, reason="x")
    assert none.value.code == "not_found"
    assert (await theatre.start())["state"] == "running"


async def test_a_version_can_be_the_candidate_and_one_that_is_not_there_cannot(theatre: Theatre) -> None:
    wanted = Wanted(text=None, version=1, label="v1")
    assert (await theatre.shadowing.start(wanted, by=OPS, reason="x"))["state"] == "running"
    assert theatre.workshop.given == ["one two"]
    await theatre.shadowing.stop(by=OPS, reason="x")
    with pytest.raises(Refused) as none:
        await theatre.shadowing.start(Wanted(text=None, version=9, label="v9"), by=OPS, reason="x")
    assert none.value.code == "not_found"


@pytest.mark.parametrize(
    "fails", [Malformed("invalid_request", "x.cedar:1: no"), Unavailable("unavailable", "no")]
)
async def test_a_candidate_that_does_not_load_starts_nothing(theatre: Theatre, fails: Exception) -> None:
    theatre.workshop.fails = fails
    with pytest.raises(type(fails)):
        await theatre.start()
    assert (await theatre.shadowing.status())["state"] == "off"
    assert theatre.entries("shadow.started") == []


async def test_what_cannot_be_kept_does_not_run(theatre: Theatre) -> None:
    theatre.keeper.fails = True
    with pytest.raises(Unavailable):
        await theatre.start()
    assert theatre.workshop.made[0].closed
    assert (await theatre.shadowing.status())["state"] == "off"
    await theatre.decide()
    assert theatre.ears.compared.total() == 0


async def test_an_end_that_cannot_be_kept_is_no_end(theatre: Theatre) -> None:
    await theatre.start()
    theatre.keeper.fails = True
    with pytest.raises(Unavailable):
        await theatre.shadowing.stop(by=OPS, reason="x")
    assert (await theatre.shadowing.status())["state"] == "running"
    await theatre.decide()
    await until(lambda: theatre.ears.compared.total() == 1)


async def test_a_restart_resumes_it_and_says_so(theatre: Theatre) -> None:
    await theatre.start()
    await theatre.decide()
    await until(lambda: theatre.ears.compared.total() == 1)
    await theatre.shadowing.close()
    theatre.shadowing = theatre.fresh()
    before = await theatre.shadowing.status()
    assert (before["state"], before["waiting_to_resume"]["digest"]) == ("not resumed", "sha256-c")
    theatre.clock.advance(5)
    await theatre.shadowing.resume()
    assert theatre.workshop.given == ["the texts", '{"the":"doc"}']
    told = (await theatre.shadowing.status())["shadow"]
    assert (told["resumed_at"], told["compared"], told["reason"]) == (theatre.clock.time, 0, "a week")
    (resumed,) = theatre.entries("shadow.resumed")
    assert resumed["started"] == told["ref"]
    await theatre.shadowing.resume()
    assert len(theatre.workshop.made) == 2


async def test_whoever_ends_it_while_it_is_to_be_resumed_ends_it(theatre: Theatre) -> None:
    await theatre.start()
    await theatre.shadowing.close()
    theatre.shadowing = theatre.fresh()
    async with theatre.shadowing._turn:
        resuming = asyncio.create_task(theatre.shadowing.resume())
        ending = asyncio.create_task(theatre.shadowing.stop(by=OPS, reason="x"))
        await asyncio.sleep(0)
        theatre.shadowing._kept = None
    await resuming
    with pytest.raises(Refused):
        await ending
    assert len(theatre.workshop.made) == 1


async def test_without_one_a_restart_resumes_none(theatre: Theatre) -> None:
    await theatre.shadowing.resume()
    assert theatre.workshop.made == []


async def test_one_that_does_not_load_any_more_is_told_and_can_be_ended(theatre: Theatre) -> None:
    await theatre.start()
    await theatre.shadowing.close()
    theatre.shadowing, theatre.workshop.fails = theatre.fresh(), Malformed("invalid_request", "unfit now")
    await theatre.shadowing.resume()
    status = await theatre.shadowing.status()
    assert (status["state"], status["trouble"]) == ("not resumed", "unfit now")
    with pytest.raises(Conflict):
        await theatre.start()
    ended = await theatre.shadowing.stop(by=OPS, reason="x")
    assert ended["candidate"] == "policy/"
    assert "compared" not in theatre.entries("shadow.stopped")[0]
    theatre.workshop.fails = None
    assert (await theatre.start())["state"] == "running"


async def test_resuming_is_tried_until_it_can_be(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESUME_S", 0.0)
    await theatre.start()
    await theatre.shadowing.close()
    theatre.shadowing, theatre.workshop.fails = theatre.fresh(), Unavailable("unavailable", "OPA is away")
    tries = 0

    async def reopen(doc: str) -> FakeCandidate:
        nonlocal tries
        tries += 1
        if tries == 3:
            theatre.workshop.fails = None
        return await theatre.workshop.open(doc)

    monkeypatch.setattr(theatre.workshop, "reopen", reopen)
    await theatre.shadowing.resume()
    assert tries == 3
    assert (await theatre.shadowing.status())["trouble"] is None


async def test_a_resumption_that_is_not_on_record_is_tried_again(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESUME_S", 0.0)
    await theatre.start()
    await theatre.shadowing.close()
    theatre.shadowing, theatre.clock.doubt = theatre.fresh(), True
    seen: list[str | None] = []

    async def reopen(doc: str) -> FakeCandidate:
        seen.append((await theatre.shadowing.status())["trouble"])
        theatre.clock.doubt = len(seen) < 2
        return await theatre.workshop.open(doc)

    monkeypatch.setattr(theatre.workshop, "reopen", reopen)
    await theatre.shadowing.resume()
    assert len(seen) == 2
    assert theatre.workshop.made[1].closed
    assert not theatre.workshop.made[2].closed


async def test_what_is_found_of_one_policy_is_not_told_of_another(theatre: Theatre) -> None:
    assert theatre.shadowing.found("sha256-c", None) is None
    await theatre.start()
    assert theatre.shadowing.found("sha256-other", None) is None
    assert (theatre.shadowing.found("sha256-c", None) or {})["compared"] == 0

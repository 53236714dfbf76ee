"""The shipped scenarios on every engine: one question, one answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contracts.test_policy_engine import Engines, engines

from stepwrit_broker.ports import PolicyEngine
from stepwrit_broker.rehearsal.ask import ask
from stepwrit_broker.rehearsal.suite import read_suites

__all__ = ["engines"]  # the fixture
SCENARIOS = Path(__file__).parents[2] / "deploy" / "policies" / "scenarios"
STANCES = ("low-risk", "approval")


async def all_as_expected(engine: PolicyEngine, *names: str) -> None:
    outcomes = await ask(engine, read_suites([SCENARIOS / f"{name}.yaml" for name in names]))
    assert outcomes
    assert [(each.case.name, each.differences) for each in outcomes if each.differences] == []


@pytest.mark.parametrize("name", STANCES)
async def test_a_stance_answers_what_its_scenarios_say(engines: Engines, name: str) -> None:
    await all_as_expected(engines.stance(name), "common", name)


@pytest.mark.parametrize("name", STANCES)
async def test_a_partner_that_policy_names_takes_part(engines: Engines, name: str) -> None:
    await all_as_expected(engines.naming(name, "partner.example"), "partner-named")


@pytest.mark.parametrize("name", STANCES)
async def test_what_the_example_demands_stands_beside_a_stance(engines: Engines, name: str) -> None:
    await all_as_expected(engines.with_example(name), "obligations")


async def test_servers_start_what_a_workflow_declares(engines: Engines) -> None:
    await all_as_expected(engines.stance("workflow"), "workflow")


@pytest.mark.parametrize("name", STANCES)
async def test_rules_over_what_came_before(engines: Engines, name: str) -> None:
    await all_as_expected(engines.sequence(name), "sequence")


async def test_without_declarations_or_rules_over_the_past_the_answers_are_others(engines: Engines) -> None:
    for name, asked in (("approval", "workflow"), ("low-risk", "sequence")):
        outcomes = await ask(engines.stance(name), read_suites([SCENARIOS / f"{asked}.yaml"]))
        assert any(each.differences for each in outcomes)


async def test_the_scenarios_of_one_stance_are_not_those_of_the_other(engines: Engines) -> None:
    cases = read_suites([SCENARIOS / "approval.yaml"])
    outcomes = await ask(engines.stance("low-risk"), cases)
    told = {each.case.name: each.differences for each in outcomes}
    assert told["a model's step of high impact waits"][0] == ("verdict: expected approval, came permit")
    assert told["and goes on once it is signed"] == ()

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.build import AGENT, SERVER, Maker, action

from stepwrit.wire import Origin
from stepwrit_broker.core import lineage
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.lineage import Role
from stepwrit_broker.core.step import Life, StepRecord
from stepwrit_broker.core.workload import SpiffeId

HEIGHT = {"human": 2, "model": 1, "server": 0}
ROLES: tuple[Role, ...] = get_args(Role)
OTHER = SpiffeId("spiffe://example.test/mcp/other")
MAIL = Ceiling(tools=frozenset({"mail/*"}), impact="medium")
NOTHING = Ceiling(tools=frozenset(), impact="low")


def _record(*, performer: SpiffeId | None, pattern: str = SERVER) -> StepRecord:
    life = Life(
        state="accepted",
        round=1,
        performer=performer,
        accepted_at=0,
        beat_at=0,
        waiting_at=0,
        children=0,
        ended_at=0,
    )
    return StepRecord(step=replace(Maker(0.0).root_step(), performer=pattern), life=life)


@given(st.sampled_from(get_args(Origin)), st.lists(st.sampled_from(ROLES), max_size=12))
def test_origin_never_rises_along_any_path_of_openers(root: Origin, openers: list[Role]) -> None:
    path = [root]
    for role in openers:
        path.append(lineage.derive_origin(path[-1], role))
    heights = [HEIGHT[origin] for origin in path]
    assert heights == sorted(heights, reverse=True)
    if any(role != "agent" for role in openers):
        assert path[-1] == "server"


@pytest.mark.parametrize("role", ROLES)
def test_only_an_agent_opens_model_steps_and_nobody_opens_human_ones(role: Role) -> None:
    assert lineage.own_origin(role) == ("model" if role == "agent" else "server")
    assert lineage.derive_origin("human", role) != "human"


def test_below_a_servers_step_an_agent_opens_server_steps() -> None:
    assert lineage.derive_origin("model", "agent") == "model"
    assert lineage.derive_origin("server", "agent") == "server"


@pytest.mark.parametrize("role", ROLES)
def test_only_the_parents_performer_opens_a_child(role: Role) -> None:
    lineage.check_opener(_record(performer=SERVER), SERVER, role)
    with pytest.raises(Refused) as refused:
        lineage.check_opener(_record(performer=SERVER), OTHER, role)
    assert refused.value.code == ("not_found" if role == "agent" else "origin_claimed")


def test_before_anyone_accepted_the_named_performer_counts_and_a_pattern_names_nobody() -> None:
    lineage.check_opener(_record(performer=None), SERVER, "mcp-server")
    with pytest.raises(Refused):
        lineage.check_opener(
            _record(performer=None, pattern="spiffe://example.test/mcp/*"), SERVER, "mcp-server"
        )
    lineage.check_opener(
        _record(performer=SERVER, pattern="spiffe://example.test/mcp/*"), SERVER, "mcp-server"
    )


def test_a_childs_action_lies_in_the_parents_ceiling_and_in_what_the_registry_allows() -> None:
    parent = replace(Maker(0.0).root_step(), ceiling=MAIL)
    lineage.check_action(parent, action(), MAIL)
    lineage.check_action(parent, action(), None)
    for bad, may_start, rule in (
        (action(tool="files/read"), MAIL, None),
        (action(impact="high"), MAIL, None),
        (action(), NOTHING, "registry may_start"),
    ):
        with pytest.raises(Refused) as refused:
            lineage.check_action(parent, bad, may_start)
        assert (refused.value.code, refused.value.rule) == ("ceiling", rule)


def test_a_childs_ceiling_is_never_wider_than_asked_for_or_than_above_or_than_registered() -> None:
    one = Ceiling(tools=frozenset({"mail/send"}), impact="low")
    assert lineage.narrow(MAIL, one, None) == one
    assert lineage.narrow(MAIL, None, None) == MAIL
    assert lineage.narrow(MAIL, None, one) == one
    assert not lineage.narrow(MAIL, one, NOTHING).tools
    with pytest.raises(Refused) as refused:
        lineage.narrow(one, MAIL, None)
    assert refused.value.code == "ceiling"


def test_a_chain_grows_by_the_child_alone() -> None:
    parent = Maker(0.0).root_step()
    chain = lineage.extend(
        parent, child="stp_1", initiator=AGENT, performer=SERVER, origin="model", tool="mail/send"
    )
    assert chain[:-1] == parent.chain
    last = chain[-1]
    assert (last.step, last.initiator, last.performer, last.origin, last.tool) == (
        "stp_1",
        AGENT,
        SERVER,
        "model",
        "mail/send",
    )

"""What servers make their clients do: who may, and what may come of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import build

from stepwrit.wire import CeilingSpec, Impact, OpenStepRequest
from stepwrit.wire_acts import ACTS, NAMED, SAMPLING
from stepwrit_broker.core import acts
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.registry import Entry, Registry, Tool
from stepwrit_broker.core.step import Step

TOOLS = {
    name: {tool: Tool(name=f"{name}/{tool}", impact="low") for tool in ("a", "b", "c")}
    for name in ("s", "t", "u")
}


def ceiling(*tools: str, impact: Impact = "high") -> Ceiling:
    return Ceiling(tools=frozenset(tools), impact=impact)


def server(name: str = "s", may_start: Ceiling | None = None, tenant: str = "acme") -> Entry:
    return Entry(
        id=f"spiffe://x.test/{name}",
        name=name,
        role="mcp-server",
        tenant=tenant,
        tools=TOOLS[name],
        may_start=may_start,
    )


_MAKER = build.Maker(now=0.0)
REGISTRY = Registry(version=1, entries=(server("s"), server("t"), server("u", tenant="evil")))


def asked(act: str = SAMPLING, args: dict[str, object] | None = None, **more: Any) -> OpenStepRequest:
    return OpenStepRequest(parent="p", server="client", tool=act, args=args or {}, **more)


def below(above: Ceiling) -> Step:
    return _MAKER.root_step(ceiling=above, action=build.action())


def test_the_table_is_the_wires() -> None:
    assert {name.partition("/")[2]: tool.impact for name, tool in acts.TOOLS.items()} == dict(ACTS)
    assert not any(tool.plan or tool.is_self for tool in acts.TOOLS.values())


@pytest.mark.parametrize("act", sorted(ACTS))
def test_what_must_be_named_is_named_by_itself_or_as_all_of_the_clients(act: str) -> None:
    tool = f"client/{act}"
    assert acts.may_start(tool, ceiling(tool, impact="low"))
    assert acts.may_start(tool, ceiling("client/*", impact="low"))
    for other in (ceiling("*"), ceiling("client"), ceiling("s/*", "client/other"), None):
        assert acts.may_start(tool, other) is (act not in NAMED)


def test_only_a_server_asks_and_for_a_call_of_its_clients() -> None:
    tool, by = acts.TOOLS["client/elicitation"], server()
    acts.check(asked("elicitation"), tool, below(ceiling("*")), by)
    sampling = build.action(tool="client/sampling")
    agent = Entry(id="spiffe://x.test/a", name="a", role="agent", tenant="acme")
    with pytest.raises(Refused, match="only a server"):
        acts.check(asked("elicitation"), tool, below(ceiling("*")), agent)
    with pytest.raises(Refused, match="only a server"):
        acts.check(asked("elicitation"), tool, _MAKER.root_step(), by)
    with pytest.raises(Refused, match="only a server"):
        acts.check(asked("elicitation"), tool, _MAKER.root_step(action=sampling), by)
    with pytest.raises(Malformed, match="deferred"):
        acts.check(asked("elicitation", deferred=True), tool, below(ceiling("*")), by)


def test_nothing_comes_of_an_act_that_offers_no_tools() -> None:
    everything = server(may_start=ceiling("*"))
    for act in ACTS:
        offers: list[dict[str, object]] = [{}, {"tools": []}]
        offers += [] if act == SAMPLING else [{"tools": ["a"]}]
        for args in offers:
            assert acts.ceiling(asked(act, args), below(ceiling("*")), everything, REGISTRY) == acts.NOTHING
    offered = acts.ceiling(asked(args={"tools": ["a"]}), below(ceiling("*")), everything, REGISTRY)
    assert offered.tools == {"s/a"}


def test_a_bare_name_is_the_servers_own_and_what_is_not_registered_is_no_step() -> None:
    names = [
        "a",
        "t/b",
        "t/none",
        "none",
        "u/a",
        "*",
        "t/*",
        "/",
        "client/sampling",
        "",
        "spiffe://x.test/t/c",
    ]
    got = acts.ceiling(
        asked(args={"tools": names}), below(ceiling("*")), server(may_start=ceiling("*")), REGISTRY
    )
    assert got.tools == {"s/a", "t/b", "t/c"}


@pytest.mark.parametrize("bad", ["a", {"a": 1}, [1], [None], ["x"] * 257])
def test_offers_that_are_no_list_of_names_are_refused(bad: object) -> None:
    with pytest.raises(Malformed, match="tools"):
        acts.ceiling(asked(args={"tools": bad}), below(ceiling("*")), server(), REGISTRY)


_names = st.sampled_from(["a", "b", "s/a", "s/c", "t/a", "t/b", "u/a", "t/*", "*", "zzz"])
_patterns = st.frozensets(st.sampled_from(["*", "s/*", "t/*", "s/a", "s/b", "t/a", "t/b", "u/*"]), max_size=4)
_impacts = st.sampled_from(["low", "medium", "high"])
_ceilings = st.builds(lambda tools, impact: Ceiling(tools=tools, impact=impact), _patterns, _impacts)


@given(st.lists(_names, max_size=6), _ceilings, st.none() | _ceilings, st.none() | _ceilings)
def test_each_of_the_bounds_holds(
    names: list[str], above: Ceiling, registered: Ceiling | None, wanted: Ceiling | None
) -> None:
    """The parent's, the registry's for the asking server, the offered tools, and what was asked for."""
    spec = None if wanted is None else CeilingSpec(tools=tuple(wanted.tools), impact=wanted.impact)
    request = asked(args={"tools": list(names)}, ceiling=spec)
    got = acts.ceiling(request, below(above), server(may_start=registered), REGISTRY)

    assert got.within(above)
    assert got.within(registered or acts.NOTHING)
    assert wanted is None or got.within(wanted)
    offered = {name if "/" in name else f"s/{name}" for name in names}
    assert got.tools <= offered
    assert not any("*" in tool or tool.startswith("u/") for tool in got.tools)

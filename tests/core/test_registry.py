from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.lineage import Role
from stepwrit_broker.core.registry import Entry, Registry, matches
from stepwrit_broker.core.versions import Versions
from stepwrit_broker.core.workload import (
    SpiffeId,
    Workload,
    parse_spiffe_id,
    parse_trust_domain,
    trust_domain_of,
)

TD = "spiffe://example.test"


def entry(id_: str, name: str, role: Role = "mcp-server", **more: str) -> Entry:
    return Entry(id=id_, name=name, role=role, tenant="acme", **more)  # type: ignore[arg-type]


REGISTRY = Registry(
    version=1,
    entries=(
        entry(f"{TD}/*", "wide"),
        entry(f"{TD}/a/*", "near"),
        entry(f"{TD}/a/b", "exact", url="https://tools.example/mcp/"),
        entry(f"{TD}/a/bb/*", "nearer"),
        entry(f"{TD}/bank", "bank", "resource", audience="https://bank.example"),
    ),
)


@pytest.mark.parametrize(
    ("pattern", "workload", "does"),
    [
        (f"{TD}/a", f"{TD}/a", True),
        (f"{TD}/a/*", f"{TD}/a/b", True),
        (f"{TD}/a/*", f"{TD}/a/b/c", True),
        (f"{TD}/a/*", f"{TD}/a", False),
        (f"{TD}/a/*", f"{TD}/ab", False),
        (f"{TD}/a/*", f"{TD}.evil/a/b", False),
        (f"{TD}/a*", f"{TD}/ab", False),
        (f"{TD}/a", f"{TD}/A", False),
    ],
)
def test_a_pattern_covers_whole_segments_below_it(pattern: str, workload: SpiffeId, does: bool) -> None:
    assert matches(pattern, workload) is does


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        ("/a/b", "exact"),
        ("/a/c", "near"),
        ("/a/b/c", "near"),
        ("/a/bb/c", "nearer"),
        ("/a/bb", "near"),
        ("/x", "wide"),
        ("/bank", "bank"),
    ],
)
def test_an_exact_entry_comes_before_a_pattern_and_a_longer_pattern_before_a_shorter(
    workload: str, name: str
) -> None:
    found = REGISTRY.entry_for(SpiffeId(TD + workload))
    assert found is not None
    assert found.name == name
    backwards = Registry(version=1, entries=REGISTRY.entries[::-1])
    assert backwards.entry_for(SpiffeId(TD + workload)) == found


def test_who_is_not_registered_is_nobody() -> None:
    assert REGISTRY.entry_for(SpiffeId("spiffe://other.test/a/b")) is None


@pytest.mark.parametrize(
    "named", ["exact", f"{TD}/a/b", "https://tools.example/mcp", "https://tools.example/mcp/"]
)
def test_a_server_is_found_by_name_id_or_url(named: str) -> None:
    found = REGISTRY.server(named)
    assert found is not None
    assert found.name == "exact"


@pytest.mark.parametrize(
    "named", ["", "bank", f"{TD}/bank", "https://tools.example", "https://bank.example", "Exact"]
)
def test_only_an_mcp_server_is_found_as_one(named: str) -> None:
    assert REGISTRY.server(named) is None


def test_only_the_registered_resource_redeems_for_its_audience() -> None:
    bank = SpiffeId(f"{TD}/bank")
    assert REGISTRY.redeems(bank, "https://bank.example")
    assert not REGISTRY.redeems(bank, "https://bank.example/")
    assert not REGISTRY.redeems(SpiffeId(f"{TD}/a/b"), "https://bank.example")
    assert not REGISTRY.redeems(SpiffeId("spiffe://other.test/bank"), "https://bank.example")
    found = REGISTRY.resource("https://bank.example")
    assert found is not None
    assert found.name == "bank"
    assert REGISTRY.resource("https://other.example") is None


# --- SPIFFE IDs


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "spiffe://",
        "spiffe://example.test",
        "spiffe://example.test/",
        "spiffe://example.test//a",
        "spiffe://example.test/a/",
        "spiffe://example.test/a/../b",
        "spiffe://example.test/./b",
        "spiffe://Example.test/a",
        "spiffe://example.test:1/a",
        "spiffe://user@example.test/a",
        "spiffe://example.test/a?b",
        "spiffe://example.test/a%20b",
        "spiffe://example.test/é",
        "spiffe://example.test/a\n",
        "SPIFFE://example.test/a",
        "https://example.test/a",
        "spiffe:///a",
        "spiffe://" + "a" * 256 + "/a",
        "spiffe://example.test/" + "a" * 2048,
    ],
)
def test_what_is_not_a_workloads_spiffe_id_is_refused(bad: str) -> None:
    good = parse_spiffe_id(f"{TD}/a/B.c_d-9")
    assert trust_domain_of(good) == parse_trust_domain("example.test")
    with pytest.raises(ValueError, match=r"SPIFFE ID|trust domain"):
        parse_spiffe_id(bad)


@given(st.text(max_size=40))
def test_parsing_never_changes_an_id(text: str) -> None:
    try:
        parsed = parse_spiffe_id("spiffe://example.test/" + text)
    except ValueError:
        return
    assert parsed == "spiffe://example.test/" + text


def test_a_workload_knows_its_domain_and_a_caller_may_have_no_key() -> None:
    workload = Workload(id=SpiffeId(f"{TD}/a/b"), attested_by="x509", expires_at=1.0, serial="01")
    assert workload.trust_domain == "example.test"
    assert Caller(workload=workload, entry=REGISTRY.entries[0]).jkt is None


def test_versions_are_equal_only_when_all_four_are() -> None:
    one = Versions(policy=1, registry=2, limits=3, bundles=4)
    assert one == Versions(policy=1, registry=2, limits=3, bundles=4)
    for other in ((2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5)):
        assert one != Versions(policy=other[0], registry=other[1], limits=other[2], bundles=other[3])

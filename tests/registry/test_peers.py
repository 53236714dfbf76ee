"""`peers` in registry.yaml: what must be there, what must fit, and what a new version takes away."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from stepwrit.jws import SigningKey
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.registry.difference import difference
from stepwrit_broker.registry.files import load_registry

KEY = SigningKey.generate(kid="one").published_jwk
PEER: dict[str, Any] = {
    "name": "away",
    "issuer": "https://broker.away.test",
    "trust_domain": "away.test",
    "owner": "ops",
    "broker": {"id": "spiffe://away.test/stepwrit/broker", "url": "https://broker.away.test:8443"},
    "may_start": {"tools": ["ledger/note"], "impact": "low"},
}
ENTRIES: list[dict[str, Any]] = [
    {"id": "spiffe://home.test/mcp/ledger", "role": "mcp-server", "name": "ledger",
     "tools": {"note": {"impact": "low", "plan": "self"}}},
    {"id": "spiffe://away.test/mcp/vault", "role": "mcp-server", "name": "far",
     "issuer": "https://broker.away.test", "tools": {"read": {"impact": "low"}}},
]  # fmt: skip


def text(
    peers: list[dict[str, Any]] | None = None, entries: list[dict[str, Any]] | None = None, **more: Any
) -> str:
    read = ENTRIES if entries is None else entries
    document = {
        "version": 1,
        "trust_domains": ["away.test"],
        "peers": [PEER] if peers is None else peers,
        "entries": read,
        **more,
        "count": len(read),
    }
    return str(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PEER.items() if name not in names}


def test_a_peer_is_read_and_its_servers_with_it() -> None:
    registry = load_registry(text(), name="r")[1]
    peer = registry.peer("https://broker.away.test")
    assert peer is not None
    assert (peer.max_origin, peer.person_claims, peer.tenant) == ("server", False, "default")
    assert registry.peer("https://broker.away.test/") is None, "byte for byte"
    assert registry.server("far").issuer == peer.issuer  # type: ignore[union-attr]
    nothing = load_registry(text([without("may_start")]), name="r")[1].peers[0]
    assert not nothing.may_start.tools


@pytest.mark.parametrize(
    ("what", "peers", "more"),
    [
        ("needs owner", [without("owner")], {}),
        ("must stand in trust_domains", None, {"trust_domains": ["third.test"]}),
        ("needs either broker", [without("broker")], {}),
        ("needs either broker", [{**PEER, "keys": [KEY]}], {}),
        ("is not of away.test", [{**PEER, "broker": {**PEER["broker"], "id": "spiffe://home.test/b"}}], {}),
        ("not on the curve", [{**without("broker"), "keys": [{**KEY, "x": KEY["y"]}]}], {}),
        ("must be one of model, server", [{**PEER, "max_origin": "human"}], {}),
        ("no tool far/read of ours", [{**PEER, "may_start": {"tools": ["far/read"], "impact": "low"}}], {}),
        (
            "no tool ledger/pay of ours",
            [{**PEER, "may_start": {"tools": ["ledger/pay"], "impact": "low"}}],
            {},
        ),
        ("the same issuer is of peer 0", [PEER, {**PEER, "name": "b", "trust_domain": "b.test"}], {}),
        ("is no peer with a broker", [], {}),
        ("is no peer with a broker", [{**without("broker"), "keys": [KEY]}], {}),
        (
            "not the tenant of away",
            [{**PEER, "tenant": "blue", "may_start": {"tools": [], "impact": "low"}}],
            {},
        ),
    ],
)
def test_what_does_not_fit_is_named(
    what: str, peers: list[dict[str, Any]] | None, more: dict[str, Any]
) -> None:
    load_registry(text(), name="r")
    with pytest.raises(Malformed, match=what):
        load_registry(text(peers, **more), name="r")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("whose broker it names", {"id": "spiffe://home.test/mcp/other"}),
        ("its own broker's to say", {"tools": {"read": {"impact": "low", "plan": "self"}}}),
    ],
)
def test_a_foreign_server_is_of_its_brokers_domain_and_has_no_plan(what: str, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=what):
        load_registry(text(entries=[ENTRIES[0], {**ENTRIES[1], **change}]), name="r")


def test_a_peer_that_leaves_is_to_be_frozen_and_one_that_comes_back_thawed() -> None:
    with_it = load_registry(text(), name="r")[1]
    without_it = load_registry(text([], [ENTRIES[0]]), name="r")[1]
    gone = difference(with_it, without_it)
    assert "issuer:https://broker.away.test" in gone.gone
    assert ("removed", "issuer:https://broker.away.test") in [(c.what, c.target) for c in gone.changes]
    assert "issuer:https://broker.away.test" in difference(without_it, with_it).back
    wider = load_registry(text([{**PEER, "max_origin": "model"}]), name="r")[1]
    changes = [(c.what, c.target) for c in difference(with_it, wider).changes]
    assert changes == [("changed", "issuer:https://broker.away.test")]

"""What the registry must mean about brokers of other trust domains. Each check lists all its problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepwrit.jws import TokenRefused, VerifyKey
from stepwrit_broker.registry.marked import Path, Problem

Doc = dict[str, Any]


def peer_problems(doc: Doc, tenant: str) -> Iterator[Problem]:
    """Every problem of `peers`, and of the entries that name one."""
    peers: list[Doc] = doc.get("peers", [])
    known = set(doc.get("trust_domains", ()))
    seen: dict[tuple[str, str], int] = {}
    for number, peer in enumerate(peers):
        at: Path = ("peers", number)
        yield from _own(peer, at, known)
        yield from _ceiling(peer, at, doc, tenant)
        for key in ("name", "issuer", "trust_domain"):
            before = seen.setdefault((key, peer[key]), number)
            if before != number:
                yield (*at, key), f"the same {key} is of peer {before}"
    yield from _entries(doc, {each["issuer"]: each for each in peers}, tenant)


def _own(peer: Doc, at: Path, known: set[str]) -> Iterator[Problem]:
    if peer["trust_domain"] not in known:
        yield (*at, "trust_domain"), "must stand in trust_domains"
    if ("broker" in peer) == ("keys" in peer):
        yield at, "needs either broker, where its keys are fetched, or keys"
    if "broker" in peer and not peer["broker"]["id"].startswith(f"spiffe://{peer['trust_domain']}/"):
        yield (*at, "broker", "id"), f"is not of {peer['trust_domain']}"
    for number, jwk in enumerate(peer.get("keys", ())):
        try:
            VerifyKey.from_jwk(jwk)
        except TokenRefused as bad:
            yield (*at, "keys", number), str(bad)


def _ceiling(peer: Doc, at: Path, doc: Doc, tenant: str) -> Iterator[Problem]:
    """What it may start are tools of servers of ours."""
    own = peer.get("tenant", tenant)
    tools = {
        each["name"]: each.get("tools", {})
        for each in doc["entries"]
        if each["role"] == "mcp-server" and each.get("tenant", tenant) == own and "issuer" not in each
    }
    for number, pattern in enumerate(peer.get("may_start", {}).get("tools", ())):
        server, _, tool = pattern.partition("/")
        if server not in tools or tool not in ("*", *tools[server]):
            yield (*at, "may_start", "tools", number), f"there is no tool {pattern} of ours in tenant {own}"


def _entries(doc: Doc, peers: dict[str, Doc], tenant: str) -> Iterator[Problem]:
    for number, entry in enumerate(doc["entries"]):
        at: Path = ("entries", number)
        peer = peers.get(entry.get("issuer", ""))
        if "issuer" not in entry:
            continue
        if peer is None or "broker" not in peer:
            yield (*at, "issuer"), "is no peer with a broker"
            continue
        if not entry["id"].startswith(f"spiffe://{peer['trust_domain']}/"):
            yield (*at, "id"), f"is not of {peer['trust_domain']}, whose broker it names"
        if entry.get("tenant", tenant) != peer.get("tenant", tenant):
            yield (*at, "tenant"), f"is not the tenant of {peer['name']}"
        for name, tool in entry.get("tools", {}).items():
            if tool.get("plan"):
                yield (*at, "tools", name, "plan"), "what it opens is its own broker's to say"

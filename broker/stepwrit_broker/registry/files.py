"""registry.yaml: who is what, who may start what, who redeems. Read, checked, stored, compiled.

A file with a problem changes nothing: Malformed lists every problem, and the caller keeps what is in force.
"""

from __future__ import annotations

from typing import Any

from stepwrit.wire import PlanItem
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.peers import Peer
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.registry import Client, Entry, Registry, Tool
from stepwrit_broker.registry.checks import DEFAULT_TENANT, registry_problems
from stepwrit_broker.registry.document import StoredDoc, digest_of, from_doc, from_text
from stepwrit_broker.registry.units import seconds
from stepwrit_broker.registry.workflows import compile_workflows

_STARTS = frozenset({"agent", "mcp-server", "trigger"})
_NOTHING = Ceiling(tools=frozenset(), impact="low")


def load_registry(text: str, *, name: str) -> tuple[StoredDoc, Registry]:
    """The stored document of a file named `name`, and the registry it means (version 0: not applied yet).

    Raises Malformed(`invalid_request`): one line `name:line:column: what` for each problem.
    """
    stored = from_text(text, name, "registry", registry_problems)
    return stored, compile_registry(stored.doc, 0)


def compile_registry(doc: str, version: int) -> Registry:
    """The registry of a stored document. Raises Malformed when it does not fit (any more)."""
    read = from_doc(doc, "registry", registry_problems)
    default: str = read.get("tenant", DEFAULT_TENANT)
    entries = tuple(_entry(each, default) for each in read["entries"])
    return Registry(
        version=version,
        entries=entries,
        trust_domains=frozenset(read.get("trust_domains", ())),
        digest=digest_of(doc),
        persons=_persons(read.get("persons", []), default),
        workflows=compile_workflows(read, default),
        peers=tuple(_peer(each, default) for each in read.get("peers", ())),
        emails={each["name"]: each["email"] for each in read.get("persons", ()) if "email" in each},
    )


def _persons(read: list[dict[str, Any]], tenant: str) -> Persons:
    return Persons(
        {each["name"]: frozenset(Identity(**pair) for pair in each["identities"]) for each in read},
        {each["name"]: each.get("tenant", tenant) for each in read},
        frozenset(each["name"] for each in read if not each.get("active", True)),
    )


def _entry(read: dict[str, Any], tenant: str) -> Entry:
    name: str = read["name"]
    return Entry(
        id=read["id"],
        name=name,
        role=read["role"],
        tenant=read.get("tenant", tenant),
        attest=frozenset(read.get("attest", ("x509",))),
        url=read.get("url"),
        tools={each: _tool(f"{name}/{each}", tool) for each, tool in read.get("tools", {}).items()},
        may_start=_ceiling(read),
        audience=read.get("audience"),
        clients=tuple(Client(**each) for each in read.get("clients", ())),
        owner=read.get("owner"),
        max_auth_age_s=seconds(read.get("max_auth_age", "1h")),
        person_claims=read.get("person_claims", False),
        may_ask=frozenset(read.get("may_ask", ())),
        narrows_influence=read.get("narrows_influence", False),
        needs_cause=read.get("needs_cause", False),
        issuer=read.get("issuer"),
    )


def _peer(read: dict[str, Any], tenant: str) -> Peer:
    broker = read.get("broker", {})
    return Peer(
        name=read["name"],
        issuer=read["issuer"],
        trust_domain=read["trust_domain"],
        tenant=read.get("tenant", tenant),
        owner=read["owner"],
        broker=broker.get("id"),
        url=broker.get("url"),
        keys=tuple(read.get("keys", ())),
        max_origin=read.get("max_origin", "server"),
        may_start=_ceiling({**read, "role": "trigger"}) or _NOTHING,
        person_claims=read.get("person_claims", False),
    )


def _ceiling(read: dict[str, Any]) -> Ceiling | None:
    """Who says nothing may start nothing: `None` is left to roles that never start anything."""
    if "may_start" in read:
        return Ceiling(tools=frozenset(read["may_start"]["tools"]), impact=read["may_start"]["impact"])
    return _NOTHING if read["role"] in _STARTS else None


def _tool(name: str, read: dict[str, Any]) -> Tool:
    plan = read.get("plan", [])
    return Tool(
        name=name,
        impact=read["impact"],
        schema=read.get("schema"),
        plan=() if plan == "self" else tuple(_line(each) for each in plan),
        is_self=plan == "self",
        facts=tuple(sorted(read.get("facts", {}).items())),
        returns=read.get("returns", "untrusted"),
        without_step=read.get("without_step", "refuse"),
    )


def _line(read: dict[str, Any]) -> PlanItem:
    method, _, path = read["request"].partition(" ")
    return PlanItem(
        at=read["at"],
        method=method,
        path=path,
        query=tuple(read.get("query", ())),
        times=read.get("times", 1),
    )

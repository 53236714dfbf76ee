"""The development broker's registry: who is in it from the start, and what is put beside them."""

from __future__ import annotations

from typing import Any

from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN
from stepwrit_broker.dev.oidc import CLIENT_ID, PERSON


def dev_id(path: str) -> str:
    """The SPIFFE ID of a development identity."""
    return f"spiffe://{DEV_TRUST_DOMAIN}/{path}"


def dev_registry(
    issuer: str, extra: list[dict[str, Any]], persons: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The development registry: beside `extra`, a person, and an agent that may start every tool there is."""
    everything = [f"{each['name']}/*" for each in extra if each["role"] == "mcp-server"]
    agent: dict[str, Any] = {
        "id": dev_id("agent/dev"),
        "role": "agent",
        "name": "dev",
        "clients": [{"issuer": issuer, "client_id": CLIENT_ID}],
        "may_start": {"tools": everything, "impact": "high"},
    }
    operator = {"id": dev_id("operator/dev"), "role": "operator", "name": "operator"}
    entries = [operator, *([agent] if everything else []), *extra]
    person = {"name": PERSON, "identities": [{"issuer": issuer, "subject": PERSON}]}
    return {
        "version": 1,
        "tenant": "default",
        "persons": persons or [person],
        "entries": entries,
        "count": len(entries),
    }


def registered(registry: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries that were put beside the development agent and operator."""
    ours = {dev_id("agent/dev"), dev_id("operator/dev")}
    return [each for each in registry["entries"] if each["id"] not in ours]


def with_tools(
    entries: list[dict[str, Any]], name: str, url: str, tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The entries with this mcp-server's tools. A new tool is of low impact, its own resource; what else was
    set of the server, or of a tool that it still has, stays. A server on another's URL takes its place.
    """
    me = dev_id(f"mcp-server/{name}")
    new: dict[str, Any] = {"id": me, "role": "mcp-server", "name": name}
    known = next((each for each in entries if each["id"] == me), new)
    was: dict[str, dict[str, Any]] = known.get("tools", {})
    now = {each["name"]: _tool(each, was.get(each["name"], {})) for each in tools}
    others = [each for each in entries if each["id"] != me and each.get("url") != url]
    return [*others, {**known, "url": url, "tools": now}]


def _tool(said: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in said.items() if key != "name"}
    return {"impact": "low", "plan": "self", **was, **told}

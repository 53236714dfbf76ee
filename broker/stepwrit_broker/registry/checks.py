"""What a registry must mean, beyond its shape. Each check lists all its problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from stepwrit.digest import DigestError, normalise_url
from stepwrit.wire_acts import ACTS, CLIENT
from stepwrit_broker.core.workload import parse_spiffe_id, parse_trust_domain
from stepwrit_broker.registry.marked import Path, Problem
from stepwrit_broker.registry.peers import peer_problems
from stepwrit_broker.registry.units import seconds
from stepwrit_broker.registry.workflows import workflow_problems

AUTH_AGE_MAX_S: Final = 86_400.0
DEFAULT_TENANT: Final = "default"
_PLACEHOLDER: Final = re.compile(r"\{[a-z][a-z0-9_]{0,63}\}")
Entry = dict[str, Any]


def registry_problems(doc: dict[str, Any]) -> list[Problem]:
    """Every problem of meaning in a document of the right shape."""
    entries: list[Entry] = doc["entries"]
    default: str = doc.get("tenant", DEFAULT_TENANT)
    found = [*_count(doc, entries), *_overlaps(entries), *_unique(entries), *_domains(doc, entries)]
    found += _persons(doc.get("persons", []))
    found += peer_problems(doc, default)
    audiences = {each["audience"]: each.get("tenant", default) for each in entries if "audience" in each}
    tools = {
        each["name"]: (each.get("tenant", default), each["tools"]) for each in entries if "tools" in each
    }
    for number, entry in enumerate(entries):
        at: Path = ("entries", number)
        tenant = entry.get("tenant", default)
        found += [
            *_own(entry, at),
            *_named(entry.get("may_start", {}).get("tools", ()), (*at, "may_start", "tools"), tenant, tools),
            *_named(entry.get("may_ask", ()), (*at, "may_ask"), tenant, tools),
            *_plans(entry, at, tenant, audiences),
            *_without_step(entry, at),
        ]
    return [*found, *workflow_problems(doc, default)]


def _count(doc: dict[str, Any], entries: list[Entry]) -> Iterator[Problem]:
    if doc["count"] != len(entries):
        yield ("count",), f"says {doc['count']}, but there are {len(entries)} entries"


def _persons(persons: list[Entry]) -> Iterator[Problem]:
    """One name, one person; one identity, one person."""
    names: dict[str, int] = {}
    owners: dict[tuple[str, str], int] = {}
    for number, person in enumerate(persons):
        if names.setdefault(person["name"], number) != number:
            yield ("persons", number, "name"), f"the same name is of person {names[person['name']]}"
        for at, each in enumerate(person["identities"]):
            before = owners.setdefault((each["issuer"], each["subject"]), number)
            if before != number:
                yield ("persons", number, "identities", at), f"the same identity is of person {before}"


def _overlaps(entries: list[Entry]) -> Iterator[Problem]:
    """One role per ID: an ID twice, or covered by a pattern of another role, is refused."""
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry["id"] in first:
            yield ("entries", number, "id"), f"is already entry {first[entry['id']]}"
        first.setdefault(entry["id"], number)
    for number, entry in enumerate(entries):
        for wider in _above(entry["id"]):
            other = entries[first[wider]] if wider in first else None
            if other is not None and other["role"] != entry["role"]:
                at: Path = ("entries", number, "id")
                yield at, f"has role {entry['role']}, but {wider} covers it as {other['role']}"


def _domains(doc: dict[str, Any], entries: list[Entry]) -> Iterator[Problem]:
    """All entries are of one trust domain, the broker's own, but for the foreign ones that are named."""
    foreign = set(doc.get("trust_domains", ()))
    own: str | None = None
    for number, entry in enumerate(entries):
        domain = entry["id"].removeprefix("spiffe://").partition("/")[0]
        if domain in foreign:
            continue
        own = own or domain
        if domain != own:
            at: Path = ("entries", number, "id")
            yield at, f"is of trust domain {domain}, not {own}: a foreign one must stand in trust_domains"


def _above(pattern: str) -> Iterator[str]:
    """The patterns that cover this ID or pattern, nearest first."""
    path = pattern.removesuffix("/*")
    if path == pattern:
        path = pattern.rpartition("/")[0]
    elif path.count("/") > 2:
        path = path.rpartition("/")[0]
    else:
        return
    while path.count("/") >= 2:
        yield f"{path}/*"
        path = path.rpartition("/")[0]


def _unique(entries: list[Entry]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries):
        for path, kind, value in _names(entry):
            before = seen.setdefault((kind, value), number)
            if before != number:
                yield ("entries", number, *path), f"the same {kind} is in entry {before}"


def _names(entry: Entry) -> Iterator[tuple[Path, str, str]]:
    yield ("name",), "name", entry["name"]
    if "audience" in entry:
        yield ("audience",), "audience", entry["audience"]
    if "url" in entry:
        yield ("url",), "url", entry["url"].rstrip("/")
    for number, client in enumerate(entry.get("clients", ())):
        yield ("clients", number), "client", f"{client['issuer']} {client['client_id']}"


def _own(entry: Entry, at: Path) -> Iterator[Problem]:
    try:
        _identity(entry["id"])
    except ValueError as bad:
        yield (*at, "id"), str(bad)
    if entry["name"] == CLIENT:
        yield (*at, "name"), f"{CLIENT} is a reserved name"
    for key in ("url", "audience"):
        if key in entry and not _is_normal(entry[key], slash=key == "url"):
            yield (*at, key), "is not a normalised URL (lower-case host, no default port, no dot segments)"
    if seconds(entry.get("max_auth_age", "1h")) > AUTH_AGE_MAX_S:
        yield (*at, "max_auth_age"), "must be at most 24h"


def _identity(pattern: str) -> None:
    base = pattern.removesuffix("/*")
    if base != pattern and base.count("/") == 2:
        parse_trust_domain(base.removeprefix("spiffe://"))
    else:
        parse_spiffe_id(base)


def _is_normal(url: str, *, slash: bool) -> bool:
    try:
        normal = normalise_url(url)
    except DigestError:
        return False
    return normal.rstrip("/") == (url.rstrip("/") if slash else url)


def _named(
    patterns: Iterable[str], at: Path, tenant: str, tools: dict[str, tuple[str, dict[str, Any]]]
) -> Iterator[Problem]:
    for number, pattern in enumerate(patterns):
        server, _, tool = pattern.partition("/")
        its, known = tools.get(server, (None, {}))
        path: Path = (*at, number)
        if server == CLIENT:
            if tool not in ("*", *ACTS):
                yield path, f"a client does only {', '.join(ACTS)} for a server"
            continue
        if its != tenant:
            yield path, f"there is no mcp-server named {server} in tenant {tenant}"
        elif tool not in ("*", *known):
            yield path, f"{server} has no tool {tool}"


def _plans(entry: Entry, at: Path, tenant: str, audiences: dict[str, str]) -> Iterator[Problem]:
    for name, tool in entry.get("tools", {}).items():
        plan = tool.get("plan", ())
        for number, line in enumerate(() if plan == "self" else plan):
            path: Path = (*at, "tools", name, "plan", number)
            if audiences.get(line["at"]) != tenant:
                yield (*path, "at"), f"{line['at']} is not the audience of a resource in tenant {tenant}"
            if not _is_template(line["request"]):
                yield (
                    (*path, "request"),
                    "segments are literal and normalised, or {name}; none is empty, . or ..",
                )


def _without_step(entry: Entry, at: Path) -> Iterator[Problem]:
    """Nobody stands behind a call without a step, so nothing much may come of it."""
    for name, tool in entry.get("tools", {}).items():
        if tool.get("without_step") == "root" and tool["impact"] != "low":
            path: Path = (*at, "tools", name, "without_step")
            yield path, f"root is for tools of low impact; this one's is {tool['impact']}"


def _is_template(request: str) -> bool:
    path = request.partition(" ")[2]
    segments = path.split("/")[1:]
    plain = [each for each in segments if not _PLACEHOLDER.fullmatch(each)]
    if any("{" in each or "}" in each for each in plain) or "" in segments[:-1]:
        return False
    return _is_normal(f"https://x/{'/'.join(plain)}", slash=True) and not {".", ".."} & set(plain)

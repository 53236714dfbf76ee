"""What a new registry takes away and gives: for the operator to read, and as targets of marks.

What is gone is to be frozen by a mark, so that nothing in flight outlives its line in the file; what comes
back is to be thawed, unless the operator had marked it himself. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stepwrit_broker.core.ceiling import Ceiling, impact_within
from stepwrit_broker.core.registry import Entry, Registry, Tool

What = Literal["added", "removed", "narrowed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the difference. `target` is a mark's target; `detail` says what of it."""

    what: What
    target: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All changes; `gone` and `back` are the targets to mark and to thaw."""

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    back: tuple[str, ...]


def difference(old: Registry | None, new: Registry) -> Difference:
    """From the registry in force (None: there is none) to a new one."""
    before = {} if old is None else _targets(old)
    after = _targets(new)
    lost, found = _issuers(old) - _issuers(new), _issuers(new) - _issuers(old)
    # a pattern's mark would stop what stays registered below it: only its line goes
    gone = tuple(
        sorted(
            each for each in before.keys() - after.keys() if not any(_covers(each, kept) for kept in after)
        )
    )
    gone += tuple(sorted(lost))
    back = tuple(sorted(after.keys() - before.keys()))
    kept = [
        change
        for target in sorted(before.keys() & after.keys())
        for change in _compare(target, before, after)
    ]
    changes = (
        *(Change(what="removed", target=target) for target in sorted(before.keys() - after.keys())),
        *(Change(what="added", target=target) for target in back),
        *kept,
        *_workflows(old, new),
        *_peers(old, new),
        *_persons(old, new),
    )
    return Difference(changes=changes, gone=gone, back=(*back, *sorted(found)))


def _issuers(registry: Registry | None) -> set[str]:
    return set() if registry is None else {f"issuer:{each.issuer}" for each in registry.peers}


def _peers(old: Registry | None, new: Registry) -> Iterator[Change]:
    before = {} if old is None else {f"issuer:{each.issuer}": each for each in old.peers}
    after = {f"issuer:{each.issuer}": each for each in new.peers}
    for target in sorted(before.keys() | after.keys()):
        if target not in after:
            yield Change(what="removed", target=target)
        elif target not in before:
            yield Change(what="added", target=target)
        elif before[target] != after[target]:
            yield Change(what="changed", target=target)


def _workflows(old: Registry | None, new: Registry) -> Iterator[Change]:
    """Nothing can be marked here: what is no longer declared is decided at each step and credential."""
    before = {each.name: each for each in (() if old is None else old.workflows)}
    after = {each.name: each for each in new.workflows}
    for name in sorted(before.keys() | after.keys()):
        target = f"workflow:{name}"
        if name not in after:
            yield Change(what="removed", target=target)
        elif name not in before:
            yield Change(what="added", target=target)
        elif before[name] != after[name]:
            yield Change(what="changed", target=target)


def _persons(old: Registry | None, new: Registry) -> Iterator[Change]:
    """By name; whoever knows how persons are called inside marks their identities."""
    before = frozenset[str]() if old is None else old.persons.inactive
    for name in sorted(before ^ new.persons.inactive):
        is_gone = name in new.persons.inactive
        yield Change(
            what="narrowed" if is_gone else "changed",
            target=f"person:{name}",
            detail="inactive" if is_gone else "active",
        )


def _covers(pattern: str, target: str) -> bool:
    return pattern.endswith("/*") and pattern != target and target.startswith(pattern[:-1])


def _targets(registry: Registry) -> dict[str, Entry | Tool]:
    """Everything that a mark can name, by its target."""
    found: dict[str, Entry | Tool] = {}
    for entry in registry.entries:
        found[f"workload:{entry.id}"] = entry
        found.update({f"tool:{tool.name}": tool for tool in entry.tools.values()})
        if entry.audience is not None:
            found[f"resource:{entry.audience}"] = entry
    return found


def _compare(
    target: str, before: Mapping[str, Entry | Tool], after: Mapping[str, Entry | Tool]
) -> Iterator[Change]:
    was, now = before[target], after[target]
    if isinstance(was, Tool) and isinstance(now, Tool):
        yield from _tool(target, was, now)
    elif isinstance(was, Entry) and isinstance(now, Entry) and target.startswith("workload:"):
        yield from _entry(target, was, now)


def _tool(target: str, was: Tool, now: Tool) -> Iterator[Change]:
    if was.impact != now.impact:
        # a higher class is subject to more: the tool may do less than before
        what: What = "narrowed" if impact_within(was.impact, now.impact) else "changed"
        yield Change(what=what, target=target, detail=f"impact {was.impact} to {now.impact}")
    if (was.plan, was.is_self) != (now.plan, now.is_self):
        less = was.is_self or not set(was.plan) <= set(now.plan)
        yield Change(what="narrowed" if less else "changed", target=target, detail="plan")
    if was.returns != now.returns:
        # content that nobody vouches for any more is subject to more
        less_trusted = now.returns == "untrusted"
        detail = f"returns {was.returns} to {now.returns}"
        yield Change(what="narrowed" if less_trusted else "changed", target=target, detail=detail)
    if was.without_step != now.without_step:
        word: What = "narrowed" if now.without_step == "refuse" else "changed"
        yield Change(
            what=word, target=target, detail=f"without_step {was.without_step} to {now.without_step}"
        )
    for name in ("schema", "facts"):
        if getattr(was, name) != getattr(now, name):
            yield Change(what="changed", target=target, detail=name)


def _entry(target: str, was: Entry, now: Entry) -> Iterator[Change]:
    if was.may_start != now.may_start:
        what: What = "changed" if _within(was.may_start, now.may_start) else "narrowed"
        yield Change(what=what, target=target, detail="may_start")
    if was.clients != now.clients:
        less = not set(was.clients) <= set(now.clients)
        yield Change(what="narrowed" if less else "changed", target=target, detail="clients")
    if was.max_auth_age_s != now.max_auth_age_s:
        less = now.max_auth_age_s < was.max_auth_age_s
        yield Change(what="narrowed" if less else "changed", target=target, detail="max_auth_age")
    if was.may_ask != now.may_ask:
        less = not was.may_ask <= now.may_ask
        yield Change(what="narrowed" if less else "changed", target=target, detail="may_ask")
    if was.narrows_influence != now.narrows_influence:
        word: What = "changed" if now.narrows_influence else "narrowed"
        yield Change(what=word, target=target, detail="narrows_influence")
    if was.needs_cause != now.needs_cause:
        yield Change(what="narrowed" if now.needs_cause else "changed", target=target, detail="needs_cause")
    for name in ("name", "role", "tenant", "url", "audience", "owner", "person_claims", "issuer"):
        if getattr(was, name) != getattr(now, name):
            yield Change(
                what="changed", target=target, detail=f"{name} {getattr(was, name)} to {getattr(now, name)}"
            )


def _within(was: Ceiling | None, now: Ceiling | None) -> bool:
    return was is None or (now is not None and was.within(now))

"""The `workflows` of registry.yaml: what they must mean beyond their shape, and what they compile to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stepwrit.wire_acts import is_act
from stepwrit_broker.core import acts
from stepwrit_broker.core.ceiling import Ceiling, covers
from stepwrit_broker.core.declared import Condition, Declared, Earlier, Workflow
from stepwrit_broker.registry.marked import Path, Problem

Read = Mapping[str, Any]
_STARTS: Final = ("agent", "mcp-server", "trigger")


@dataclass(frozen=True, slots=True)
class _Scene:
    """One workflow being checked. known: its steps so far, by name."""

    at: Path
    tenant: str
    entries: Mapping[str, Read]
    known: dict[str, Read]

    def entry(self, name: str) -> Read | None:
        return self.entries.get(f"{self.tenant} {name}")


def workflow_problems(doc: Read, default: str) -> Iterator[Problem]:
    """Every problem of meaning."""
    entries = {f"{each.get('tenant', default)} {each['name']}": each for each in doc["entries"]}
    seen: dict[str, int] = {}
    for number, workflow in enumerate(doc.get("workflows", ())):
        at: Path = ("workflows", number)
        if seen.setdefault(workflow["name"], number) != number:
            yield (*at, "name"), f"the same name is in workflow {seen[workflow['name']]}"
        scene = _Scene(at, workflow.get("tenant", default), entries, {})
        for place, step in enumerate(workflow["steps"]):
            yield from _step(scene, step, (*at, "steps", place))
            scene.known.setdefault(step["name"], step)


def _step(scene: _Scene, step: Read, at: Path) -> Iterator[Problem]:
    if step["name"] in scene.known:
        yield (*at, "name"), "is already a step of this workflow"
    tool = _tool(scene, step["tool"])
    if tool is None:
        yield (*at, "tool"), f"there is no such tool in tenant {scene.tenant}"
    yield from _starter(scene, step, at)
    yield from _order(scene, step, at)
    yield from _facts(scene, step, at, tool or {})


def _tool(scene: _Scene, name: str) -> Read | None:
    if name in acts.TOOLS:
        return {"facts": dict(acts.TOOLS[name].facts)}
    server, _, tool = name.partition("/")
    entry = scene.entry(server)
    found: Read | None = None if entry is None else entry.get("tools", {}).get(tool)
    return found


def _starter(scene: _Scene, step: Read, at: Path) -> Iterator[Problem]:
    """Who starts it can: by its role, by its ceiling, and because it performs the step above."""
    entry = scene.entry(step["by"])
    if entry is None or entry["role"] not in _STARTS:
        yield (*at, "by"), f"there is no agent, mcp-server or trigger named {step['by']} in {scene.tenant}"
        return
    patterns = entry.get("may_start", {}).get("tools", ())
    if not _may_start(step["tool"], patterns):
        yield (*at, "by"), f"{step['by']} may not start {step['tool']} (its may_start)"
    above = scene.known.get(step.get("under", ""))
    if "under" not in step:
        if entry["role"] == "mcp-server":
            yield (*at,), "needs under: a server starts steps only below one that it performs"
    elif above is not None and not _performs(entry, step["by"], above["tool"]):
        yield (*at, "by"), f"{step['by']} does not perform {step['under']} ({above['tool']})"


def _may_start(tool: str, patterns: Sequence[str]) -> bool:
    if tool in acts.TOOLS:
        return acts.may_start(tool, Ceiling(tools=frozenset(patterns), impact="low"))
    return any(covers(each, tool) for each in patterns)


def _performs(entry: Read, name: str, tool: str) -> bool:
    return entry["role"] == "agent" if is_act(tool) else tool.partition("/")[0] == name


def _order(scene: _Scene, step: Read, at: Path) -> Iterator[Problem]:
    under = step.get("under")
    if under is not None and under not in scene.known:
        yield (*at, "under"), "must name a step that stands before this one in the workflow"
    for number, name in enumerate(step.get("after", ())):
        other = scene.known.get(name)
        if other is None:
            yield (*at, "after", number), "must name a step that stands before this one in the workflow"
        elif other.get("under") != under:
            yield (*at, "after", number), f"{name} is not under the same step"


def _facts(scene: _Scene, step: Read, at: Path, tool: Read) -> Iterator[Problem]:
    for name, test in step.get("facts", {}).items():
        path: Path = (*at, "facts", name)
        if name not in tool.get("facts", {}):
            yield path, f"{step['tool']} has no fact {name} in the registry"
        if "is" in test and "among" in test:
            yield path, "says is and among at once"
        if "same_as" in test:
            yield from _same(scene, step, (*path, "same_as"), test["same_as"])


def _same(scene: _Scene, step: Read, at: Path, said: str) -> Iterator[Problem]:
    name, _, fact = said.rpartition(".")
    other = scene.known.get(name)
    beside = name in step.get("after", ())
    if other is None or not (beside or name in _above(scene, step)):
        yield at, f"{name} is neither above this step nor among its after"
        return
    if beside and other.get("times", 1) != 1:
        yield at, f"{name} may be there {other['times']} times: which one is not known"
    if fact not in (_tool(scene, other["tool"]) or {}).get("facts", {}):
        yield at, f"{other['tool']} has no fact {fact} in the registry"


def _above(scene: _Scene, step: Read) -> Iterator[str]:
    name = step.get("under")
    while name is not None and name in scene.known:
        yield name
        name = scene.known[name].get("under")


def compile_workflows(doc: Read, default: str) -> tuple[Workflow, ...]:
    """The workflows of a checked document."""
    return tuple(
        Workflow(
            name=each["name"],
            tenant=each.get("tenant", default),
            steps=tuple(map(_declared, each["steps"])),
        )
        for each in doc.get("workflows", ())
    )


def _declared(read: Read) -> Declared:
    return Declared(
        name=read["name"],
        by=read["by"],
        tool=read["tool"],
        under=read.get("under"),
        after=tuple(read.get("after", ())),
        times=read.get("times", 1),
        conditions=tuple(_condition(fact, test) for fact, test in read.get("facts", {}).items()),
    )


def _condition(fact: str, read: Read) -> Condition:
    among = (read["is"],) if "is" in read else tuple(read["among"]) if "among" in read else None
    same = read.get("same_as")
    return Condition(
        fact=fact,
        among=among,
        at_least=read.get("at_least"),
        at_most=read.get("at_most"),
        same_as=None if same is None else Earlier(*same.rsplit(".", 1)),
    )

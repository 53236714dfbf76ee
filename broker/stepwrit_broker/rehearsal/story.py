"""What has happened by the time a scenario asks: built step by step, as the broker's flows build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from stepwrit.digest import DigestError, args_digest
from stepwrit.wire import PlanItem
from stepwrit_broker.core import acts, lineage, workflow
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.facts import extract
from stepwrit_broker.core.influence import Past, spelled
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.step import Action, Intent, Requester, Step
from stepwrit_broker.rehearsal.scene import Given, Scene, Wrong, exact, wrong

STEPS, SERVER_STEPS, DEPTH = 200, 20, 8
_TXN: Final = "txn_scenario"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The step that is asked about, who opens it, who performs it (None is the client itself), and what was
    before.
    """

    step: Step
    opener: Entry
    performer: Entry | None
    past: Past


def told(scene: Scene) -> Story:
    """Everything up to the step that is asked about. Raises Wrong."""
    said: Given = scene.given.get("action", {})
    if "tool" not in said:
        raise Wrong("needs an action with a tool", "action")
    past, above, opener = Past(), root(scene), scene.starter
    for number, each in enumerate(scene.given.get("influence", ())):
        past = _then(scene, past, above, opener, each, "influence", number).past
    for number, each in enumerate(scene.given.get("chain", ())):
        story = _then(scene, past, above, opener, each, "chain", number)
        if story.performer is None:
            raise Wrong("the client's own tools open nothing", "chain", number)
        past, above, opener = story.past, story.step, story.performer
    for number, each in enumerate(scene.given.get("earlier", ())):
        past = _then(scene, past, above, opener, each, "earlier", number).past
    performer, tool = _target(scene, said["tool"], "action", "tool")
    step = _child(past, above, opener, performer, _action(said, tool, "action"))
    step = replace(step, ceiling=ceiling(scene), deferred=scene.given.get("deferred", False))
    return Story(step=_known(scene, past, step, opener), opener=opener, performer=performer, past=past)


def _then(
    scene: Scene, past: Past, above: Step, opener: Entry, said: str | Given, where: str, number: int
) -> Story:
    """One step more, and the past with it. What is above the action is under way, anything else is done."""
    members: Given = {"tool": said} if isinstance(said, str) else said
    performer, tool = _target(scene, members["tool"], where, number)
    action = _action(members, tool, where, number)
    step = _known(scene, past, _child(past, above, opener, performer, action), opener)
    is_done = where != "chain" and members.get("done", True)
    kept = step if performer is None else replace(step, performer=performer.id)
    return Story(step=step, opener=opener, performer=performer, past=past.plus(kept, is_done=is_done))


def _known(scene: Scene, past: Past, step: Step, opener: Entry) -> Step:
    found = workflow.match(scene.registry, past, step, opener)
    label = None if found is None else found.label
    return replace(step, influence=spelled(past.heard(step.initiator)), label=label)


def root(scene: Scene) -> Step:
    """The transaction's."""
    me, now = exact(scene.starter.id), scene.now
    person = scene.given.get("requester")
    return Step(
        id="stp_root",
        txn=_TXN,
        intent=_purpose(scene, person),
        parent=None,
        ancestors=(),
        chain=(),
        initiator=me,
        initiator_jkt="scenario",
        performer=me,
        origin="server" if person is None else "human",
        action=None,
        ceiling=ceiling(scene),
        tenant=scene.starter.tenant,
        deferred=False,
        opened_at=now,
        expires_at=now + 300,
        ref="scenario",
    )


def _purpose(scene: Scene, person: Mapping[str, str] | None) -> Intent:
    given, budgets = scene.given, scene.given.get("budgets", {})
    owner = given.get("owner") or (scene.starter.owner if person is None else None)
    if person is not None and owner is not None:
        raise Wrong("a transaction is a person's or an owner's, not both", "owner")
    return Intent(
        txn=_TXN,
        requester=None if person is None else Requester(opaque="per_scenario", **person),
        owner=owner,
        proof=None if person is None else given.get("proof", "bound"),
        purpose="a scenario",
        cause=None,
        steps_max=budgets.get("steps", STEPS),
        server_steps_max=budgets.get("server_steps", SERVER_STEPS),
        depth_max=DEPTH,
    )


def _child(past: Past, above: Step, opener: Entry, performer: Entry | None, action: Action) -> Step:
    """One hop further down; its id names its place in the transaction."""
    name = f"stp_{len(past.steps) + 1}"
    origin = lineage.derive_origin(above.origin, opener.role)
    to = above.initiator if performer is None else exact(performer.id)
    me = exact(opener.id)
    chain = lineage.extend(above, child=name, initiator=me, performer=to, origin=origin, tool=action.tool)
    return replace(
        above,
        id=name,
        parent=above.id,
        ancestors=(*above.ancestors, above.id),
        chain=chain,
        initiator=me,
        performer=to,
        origin=origin,
        action=action,
        label=None,
        influence=None,
    )


def _target(scene: Scene, name: str, *path: str | int) -> tuple[Entry | None, Tool]:
    server, _, tool = name.partition("/")
    if name in acts.TOOLS:
        return None, acts.TOOLS[name]
    entry = scene.registry.server(server)
    if entry is None:
        raise Wrong(f"there is no mcp-server named {server} in the registry", *path)
    return entry, entry.tools.get(tool) or wrong(f"{server} has no tool {tool}", *path)


def _action(said: Given, tool: Tool, *path: str | int) -> Action:
    args = said.get("args", {})
    try:
        digest, facts = args_digest(args), extract(tool.facts, args)
    except (DigestError, Malformed) as bad:
        raise Wrong(str(bad), *path, "args") from None
    return Action(
        server=tool.name.partition("/")[0],
        tool=tool.name,
        args=digest,
        impact=said.get("impact", tool.impact),
        schema=said.get("schema", tool.schema),
        facts=_facts(said["facts"]) if "facts" in said else facts,
        plan=tuple(map(_line, said["plan"])) if "plan" in said else tool.plan,
        is_self=said.get("is_self", tool.is_self and "plan" not in said),
    )


def _facts(said: Given) -> tuple[tuple[str, str | int | bool], ...]:
    try:
        return extract([(name, f"/{name}") for name in said], said)
    except Malformed as bad:
        raise Wrong(bad.reason, "action", "facts") from None


def _line(said: Given) -> PlanItem:
    method, _, path = said["request"].partition(" ")
    query = tuple(said.get("query", ()))
    return PlanItem(at=said["at"], method=method, path=path, query=query, times=said.get("times", 1))


def ceiling(scene: Scene) -> Ceiling:
    """Of the action's own children."""
    said = scene.given.get("ceiling")
    return acts.NOTHING if said is None else Ceiling(tools=frozenset(said["tools"]), impact=said["impact"])

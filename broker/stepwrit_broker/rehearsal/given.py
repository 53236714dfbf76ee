"""From a scenario's circumstances to the very question that the broker would ask in them.

The step is built as the flows build it (chain, origin, digest and facts of the arguments), and the question
by core/document.py: a scenario cannot say what could not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NoReturn

from stepwrit.digest import DigestError, args_digest
from stepwrit.wire import Origin, PlanItem
from stepwrit_broker.core import lineage
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.document import credential_question, intent_question, step_question
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.facts import extract
from stepwrit_broker.core.influence import returns
from stepwrit_broker.core.registry import Entry, Registry, Tool
from stepwrit_broker.core.step import Action, Intent, Requester, Step
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.core.workload import SpiffeId, Workload, trust_domain_of
from stepwrit_broker.registry.marked import Path

Given = Mapping[str, Any]
ASKED: Final = ("open_step", "issue_credential")
TIME: Final = "2027-01-15T08:00:00Z"
STEPS, SERVER_STEPS, DEPTH = 200, 20, 8
_CLIENT: Final = Tool(name="client/elicitation", impact="low")
_TXN: Final = "txn_scenario"
_NOTHING: Final = Ceiling(tools=frozenset(), impact="low")


class Wrong(Exception):  # noqa: N818  it is a problem of the file, found far from its reader
    """A scenario that cannot be; `path` within the scenario, `what` in the author's words."""

    def __init__(self, what: str, *path: str | int) -> None:
        super().__init__(what)
        self.what = what
        self.path: Path = ("given", *path)


def questions(given: Given, registry: Registry) -> list[Question]:
    """The questions of these circumstances, one for each `asking`. Raises Wrong."""
    scene = _Scene(given, registry)
    return [_ASK[asking](scene) for asking in given.get("asking", ASKED)]


@dataclass(frozen=True, slots=True)
class _Scene:
    given: Given
    registry: Registry

    @property
    def now(self) -> float:
        text = str(self.given.get("time", TIME))
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise Wrong("there is no such time", "time") from None

    @property
    def starter(self) -> Entry:
        name = self.given.get("starter")
        found = next((each for each in self.registry.entries if each.name == name), None)
        return found or _wrong("must name who started it: an entry of the registry", "starter")

    @property
    def home(self) -> str:
        return str(self.given.get("home") or trust_domain_of(_exact(self.starter.id)))


def _intent(scene: _Scene) -> Question:
    """May the starter begin?"""
    if "action" in scene.given or "chain" in scene.given:
        raise Wrong("an intent has no action and no chain (`without` takes the file's away)", "asking")
    root = _root(scene)
    _check_origin(scene, root.origin)
    return intent_question(caller=_caller(scene, scene.starter), step=root, home=scene.home, now=scene.now)


def _open(scene: _Scene) -> Question:
    step, opener, performer = _step(scene)
    return step_question(
        caller=_caller(scene, opener),
        step=step if performer is None else replace(step, performer=performer.id),
        performer=performer,
        home=scene.home,
        now=scene.now,
        influence=_influence(scene),
        approval=_approval(scene),
    )


def _issue(scene: _Scene) -> Question:
    step, opener, performer = _step(scene)
    if performer is None:
        raise Wrong("the client's own tools have no credential; ask open_step", "action", "tool")
    return credential_question(
        caller=_caller(scene, performer),
        step=step,
        initiator=opener,
        redeemer=_redeemer(scene, step),
        home=scene.home,
        now=scene.now,
        influence=_influence(scene),
        approval=_approval(scene),
    )


_ASK: Final = {"start_intent": _intent, "open_step": _open, "issue_credential": _issue}


def _approval(scene: _Scene) -> dict[str, object] | None:
    signed = scene.given.get("approvals", ())
    return {"id": "apr_scenario", **signed[0]} if signed else None


def _influence(scene: _Scene) -> list[dict[str, object]]:
    """One record for each, as `core.influence.told` makes them; each of a model, or as it is said."""
    found: list[dict[str, object]] = []
    for number, said in enumerate(scene.given.get("influence", ())):
        each: Given = {"tool": said} if isinstance(said, str) else said
        _, tool = _target(scene, each["tool"], "influence", number)
        record: dict[str, object] = {
            "step": f"stp_before_{number + 1}",
            "server": tool.name.partition("/")[0],
            "tool": tool.name,
            "impact": each.get("impact", tool.impact),
            "origin": each.get("origin", "model"),
            "returns": each.get("returns", returns(tool.name, scene.registry)),
            "times": each.get("times", 1),
        }
        found.append(record)
    return found


def _redeemer(scene: _Scene, step: Step) -> Entry | None:
    plan = step.action.plan if step.action is not None else ()
    audience = scene.given.get("audience") or (plan[0].at if plan else None)
    if audience is None:
        return None
    found = scene.registry.resource(audience)
    return found or _wrong(f"no resource of the registry redeems for {audience}", "audience")


def _root(scene: _Scene) -> Step:
    me, now = _exact(scene.starter.id), scene.now
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
        ceiling=_ceiling(scene),
        tenant=scene.starter.tenant,
        deferred=False,
        opened_at=now,
        expires_at=now + 300,
        ref="scenario",
    )


def _purpose(scene: _Scene, person: Mapping[str, str] | None) -> Intent:
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


def _step(scene: _Scene) -> tuple[Step, Entry, Entry | None]:
    """The step that is asked about, who opens it, and who performs it; None is the client itself."""
    action: Given = scene.given.get("action", {})
    if "tool" not in action:
        raise Wrong("needs an action with a tool", "action")
    above, opener = _root(scene), scene.starter
    for number, name in enumerate(scene.given.get("chain", ())):
        performer, tool = _target(scene, name, "chain", number)
        if performer is None:
            raise Wrong("the client's own tools open nothing", "chain", number)
        above, opener = _child(above, opener, performer, tool.name, number), performer
    performer, tool = _target(scene, action["tool"], "action", "tool")
    step = _child(above, opener, performer, tool.name, len(above.chain))
    _check_origin(scene, step.origin)
    return _dressed(scene, step, _action(action, tool)), opener, performer


def _child(above: Step, opener: Entry, performer: Entry | None, tool: str, number: int) -> Step:
    """One hop further down; its id names its place."""
    name = f"stp_{number + 1}"
    origin = lineage.derive_origin(above.origin, opener.role)
    to = above.initiator if performer is None else _exact(performer.id)
    me = _exact(opener.id)
    chain = lineage.extend(above, child=name, initiator=me, performer=to, origin=origin, tool=tool)
    return replace(
        above,
        id=name,
        parent=above.id,
        ancestors=(*above.ancestors, above.id),
        chain=chain,
        initiator=me,
        performer=to,
        origin=origin,
    )


def _dressed(scene: _Scene, step: Step, action: Action) -> Step:
    return replace(
        step,
        action=action,
        ceiling=_ceiling(scene),
        deferred=scene.given.get("deferred", False),
    )


def _target(scene: _Scene, name: str, *path: str | int) -> tuple[Entry | None, Tool]:
    server, _, tool = name.partition("/")
    if name == _CLIENT.name:
        return None, _CLIENT
    entry = scene.registry.server(server)
    if entry is None:
        raise Wrong(f"there is no mcp-server named {server} in the registry", *path)
    return entry, entry.tools.get(tool) or _wrong(f"{server} has no tool {tool}", *path)


def _action(said: Given, tool: Tool) -> Action:
    args = said.get("args", {})
    try:
        digest, facts = args_digest(args), extract(tool.facts, args)
    except (DigestError, Malformed) as bad:
        raise Wrong(str(bad), "action", "args") from None
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


def _ceiling(scene: _Scene) -> Ceiling:
    said = scene.given.get("ceiling")
    return _NOTHING if said is None else Ceiling(tools=frozenset(said["tools"]), impact=said["impact"])


def _check_origin(scene: _Scene, derived: Origin) -> None:
    said = scene.given.get("origin", derived)
    if said != derived:
        raise Wrong(f"cannot be {said}: who started it and the chain make it {derived}", "origin")


def _caller(scene: _Scene, entry: Entry) -> Caller:
    workload = Workload(
        id=_exact(entry.id),
        attested_by=scene.given.get("attested_by", "x509"),
        expires_at=scene.now + 600,
        serial="01",
    )
    return Caller(workload=workload, entry=entry, jkt="scenario")


def _exact(pattern: str) -> SpiffeId:
    """An ID that the entry covers."""
    return SpiffeId(f"{pattern[:-1]}scenario" if pattern.endswith("/*") else pattern)


def _wrong(what: str, *path: str | int) -> NoReturn:
    raise Wrong(what, *path)

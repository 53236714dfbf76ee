"""From a scenario's circumstances to the very question that the broker would ask in them.

The steps are built as the flows build them (chain, origin, influence, workflow, digest and facts of the
arguments), and the question by core/document.py: a scenario cannot say what could not happen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stepwrit.wire import Origin
from stepwrit_broker.core import influence, workflow
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.document import credential_question, intent_question, step_question
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.core.workload import Workload
from stepwrit_broker.rehearsal.scene import Given, Scene, Wrong, exact, wrong
from stepwrit_broker.rehearsal.story import root, told

__all__ = ["Given", "Wrong", "questions"]
ASKED: Final = ("open_step", "issue_credential")


def questions(given: Given, registry: Registry) -> list[Question]:
    """The questions of these circumstances, one for each `asking`. Raises Wrong."""
    scene = Scene(given, registry)
    return [_ASK[asking](scene) for asking in given.get("asking", ASKED)]


def _intent(scene: Scene) -> Question:
    """May the starter begin?"""
    if "action" in scene.given or "chain" in scene.given:
        raise Wrong("an intent has no action and no chain (`without` takes the file's away)", "asking")
    begun = root(scene)
    _check_origin(scene, begun.origin)
    return intent_question(caller=_caller(scene, scene.starter), step=begun, home=scene.home, now=scene.now)


def _open(scene: Scene) -> Question:
    story = told(scene)
    step, past, performer = story.step, story.past, story.performer
    _check_origin(scene, step.origin)
    declared = workflow.match(scene.registry, past, step, story.opener)
    return step_question(
        caller=_caller(scene, story.opener),
        step=step if performer is None else replace(step, performer=performer.id),
        performer=performer,
        home=scene.home,
        now=scene.now,
        influence=influence.told(past, past.heard(step.initiator), scene.registry),
        workflow=None if declared is None else declared.told(),
        approval=_approval(scene),
    )


def _issue(scene: Scene) -> Question:
    story = told(scene)
    step, performer = story.step, story.performer
    _check_origin(scene, step.origin)
    if performer is None:
        raise Wrong("the client's own tools have no credential; ask open_step", "action", "tool")
    past = story.past.plus(step)
    declared = workflow.still(scene.registry, past, step, story.opener)
    return credential_question(
        caller=_caller(scene, performer),
        step=step,
        initiator=story.opener,
        redeemer=_redeemer(scene, step),
        home=scene.home,
        now=scene.now,
        influence=influence.told(past, past.within(step.id), scene.registry),
        workflow=None if declared is None else declared.told(),
        approval=_approval(scene),
    )


_ASK: Final = {"start_intent": _intent, "open_step": _open, "issue_credential": _issue}


def _approval(scene: Scene) -> dict[str, object] | None:
    signed = scene.given.get("approvals", ())
    return {"id": "apr_scenario", **signed[0]} if signed else None


def _redeemer(scene: Scene, step: Step) -> Entry | None:
    plan = step.action.plan if step.action is not None else ()
    audience = scene.given.get("audience") or (plan[0].at if plan else None)
    if audience is None:
        return None
    found = scene.registry.resource(audience)
    return found or wrong(f"no resource of the registry redeems for {audience}", "audience")


def _check_origin(scene: Scene, derived: Origin) -> None:
    said = scene.given.get("origin", derived)
    if said != derived:
        raise Wrong(f"cannot be {said}: who started it and the chain make it {derived}", "origin")


def _caller(scene: Scene, entry: Entry) -> Caller:
    workload = Workload(
        id=exact(entry.id),
        attested_by=scene.given.get("attested_by", "x509"),
        expires_at=scene.now + 600,
        serial="01",
    )
    return Caller(workload=workload, entry=entry, jkt="scenario")

"""Jobs on Celery and Dramatiq with a real Redis, workers and broker as processes; the page's own programs.

Hours pass by the clock of all processes; nothing here sleeps for them.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.live.queues.world import World, commands, programs

pytestmark = pytest.mark.live
QUEUES = ["celery", "dramatiq"]
MONTH = {"month": "2026-05"}


def test_the_page_has_what_these_tests_run() -> None:
    assert set(programs()) == {"jobs.py", "celery_jobs.py", "dramatiq_jobs.py", "ask.py", "nightly.py"}
    assert [each[0] for each in commands()] == QUEUES


def workers_children(world: World) -> list[int]:
    """The processes that the worker forked."""
    above = world.processes["worker"].pid
    return [
        int(each.parent.name)
        for each in Path("/proc").glob("[0-9]*/stat")
        if each.read_text().rpartition(")")[2].split()[1] == str(above)
    ]


@pytest.mark.parametrize("queue", QUEUES)
def test_hours_later_over_a_restart_with_the_whole_chain_on_record(world: World, queue: str) -> None:
    step = world.ask()
    world.enqueue(queue, step)
    world.later(5)
    world.start_worker(queue)
    world.until_closed(step)
    assert world.hits() == [MONTH]
    kinds = ["step.opened", "step.resumed", "grant.issued", "grant.redeemed", "step.closed"]
    told: list[Any] = [each for each in world.of(step) if each["kind"] in kinds]
    assert [each["kind"] for each in told] == kinds
    opened, resumed, issued, redeemed, closed = told
    assert opened["deferred"] is True
    assert resumed["performer"].endswith("/worker/1")
    assert resumed["at"] - opened["at"] > 5 * 3600
    assert (issued["performer"], redeemed["grant"]) == (resumed["performer"], issued["grant"])
    (root,) = [each for each in world.entries("intent.opened") if each["txn"] == closed["txn"]]
    assert (opened["parent"], root["origin"], opened["origin"]) == (root["step"], "human", "model")
    world.verify_ledger()
    world.enqueue(queue, step)
    world.until_refused(step, "already_done")
    assert world.hits() == [MONTH]


@pytest.mark.parametrize("queue", QUEUES)
def test_broker_and_worker_are_killed_in_the_middle(world: World, queue: str) -> None:
    world.start_worker(queue)
    world.hold()
    first = world.ask("a")
    world.enqueue(queue, first)
    world.until(lambda: len(world.hits()) == 1, "the first job runs")
    world.kill("broker")
    world.start_broker()
    world.enqueue(queue, first)  # at least once: here, while it runs
    world.until_refused(first, "replay")
    world.go_on()
    world.until_closed(first)

    world.hold()
    second = world.ask("b")
    world.enqueue(queue, second)
    world.until(lambda: len(world.hits()) == 2, "the second job runs")
    if queue == "celery":  # which delivers again what a process of its pool took to its end
        for child in workers_children(world):
            os.kill(child, signal.SIGKILL)
    else:
        world.kill("worker")
        world.start_worker(queue)
        world.enqueue(queue, second)
    world.until_refused(second, "replay")
    world.go_on()
    world.later(0.1)
    world.enqueue(queue, second)
    world.until_refused(second, "expired")
    world.until(lambda: bool(world.of(second, "step.expired")), "a lost worker ends the step")
    assert [each["month"] for each in world.hits()] == ["a", "b"]


def test_what_changed_in_between_is_a_no_with_its_reason(world: World) -> None:
    """Each is a yes again once it is taken back: the same job, retried by its queue, then runs."""
    registry, policy = "registry.yaml", "policy/20-servers.cedar"
    everybody = '@id("night")\nforbid (principal, action, resource) when { context.deferred };\n'
    jobs = {code: world.ask(code) for code in ("policy", "not_registered", "ceiling", "frozen", "person")}
    last = world.ask("revoked")
    world.later(3)
    world.start_worker("celery")
    agent = "may_start:\n    tools:\n    - books/*\n    - thief/*\n    impact: high"
    narrow = agent.replace("    - books/*\n", "")
    plan = "    archive:\n      impact: low"
    for code, name, old, new in (
        ("policy", policy, "@id", everybody + "@id"),
        ("not_registered", registry, plan, plan.replace("archive", "other")),
        ("ceiling", registry, agent, narrow),
    ):
        world.edit(name, old, new, "a test")
        world.enqueue("celery", jobs[code])
        world.until_refused(jobs[code], code)
        world.edit(name, new, old, "back")
        world.until_closed(jobs[code])
    world.cli("freeze", "server:books", "--reason", "a test")
    world.enqueue("celery", jobs["frozen"])
    world.until_refused(jobs["frozen"], "frozen")
    world.cli("unfreeze", "server:books", "--reason", "back")
    world.until_closed(jobs["frozen"])
    world.edit(registry, "- name: dev-person\n", "- name: dev-person\n  active: false\n", "left")
    world.enqueue("celery", jobs["person"])
    world.until_refused(jobs["person"], "frozen")
    world.edit(registry, "- name: dev-person\n  active: false\n", "- name: dev-person\n", "back")
    world.until_closed(jobs["person"])
    who = world.requester(last)
    world.cli("revoke", who, "--reason", "left for good")
    world.enqueue("celery", last)
    world.until_refused(last, "revoked")
    assert sorted(each["month"] for each in world.hits()) == sorted(jobs)
    (closed,) = world.of(last, "step.closed")
    (mark,) = [each for each in world.entries("mark.set") if each["ref"] == closed["ref"]]
    assert (closed["mark"], mark["reason"]) == (who, "left for good")


def test_a_stolen_id_is_nothing_to_another_worker(world: World) -> None:
    step = world.ask()
    world.start_worker("dramatiq", "thief", "worker-thief")
    world.enqueue("dramatiq", step)
    world.until_refused(step, "not_found")
    assert world.hits() == []
    world.kill("worker-thief")
    world.start_worker("dramatiq", "worker/2")
    world.enqueue("dramatiq", step)
    world.until_closed(step)
    assert world.hits() == [MONTH]


def test_a_timer_starts_its_job(world: World) -> None:
    world.start_worker("celery")
    world.later(2)
    step = world.run("nightly.py", "nightly")
    world.until_closed(step)
    assert world.hits() == [{"month": "last"}]
    (opened,) = world.of(step, "step.opened")
    (root,) = [each for each in world.entries("intent.opened") if each["txn"] == opened["txn"]]
    assert (opened["origin"], root["owner"], root["requester"]) == ("server", "dev-person", "")

"""Candidates in processes of their own: what they answer, and what happens when they do not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.flows.rig import Rig
from tests.policy.world import Scene, opening

from stepwrit_broker.core.answer import answer_of
from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.policy.files import compile_policy, load, stance
from stepwrit_broker.wiring import candidates as module
from stepwrit_broker.wiring.candidates import COMMAND, Candidates, ProcessCandidate

SCENES = [
    Scene(origin="model", impact="low"),
    Scene(origin="model", impact="high"),
    Scene(origin="server", impact="high"),
]
QUESTIONS = [opening(scene) for scene in SCENES]
TEXT = json.dumps(stance("approval"))
Opened = Callable[..., Awaitable[ProcessCandidate]]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made: list[ProcessCandidate] = []

    async def open_(
        text: str = TEXT, command: Sequence[str] = COMMAND, db: Path = tmp_path / "none.db"
    ) -> ProcessCandidate:
        made.append(await Candidates(db, None, command).open(text))
        return made[-1]

    yield open_
    for each in made:
        await each.aclose()


def broken(after: str) -> tuple[str, ...]:
    """A process that takes its policy as the real one does, and then misbehaves."""
    lines = (
        "import sys, os, time, json",
        "def read():",
        "    head = sys.stdin.buffer.read(4)",
        "    return sys.stdin.buffer.read(int.from_bytes(head, 'big')) if head else sys.exit()",
        "def say(raw):",
        "    sys.stdout.buffer.write(len(raw).to_bytes(4, 'big') + raw); sys.stdout.buffer.flush()",
        "read(); say(json.dumps({'doc': '{}', 'digest': 'd'}).encode()); read()",
        after,
    )
    return (sys.executable, "-c", "\n".join(lines))


async def test_it_says_what_the_engine_says(opened: Opened) -> None:
    candidate = await opened()
    engine = compile_policy(load(stance("approval")).doc, 1)
    assert await candidate.answers(QUESTIONS) == [answer_of(await engine.decide(each)) for each in QUESTIONS]
    assert (candidate.doc, candidate.digest) == (
        load(stance("approval")).doc,
        load(stance("approval")).digest,
    )
    assert await candidate.answers([]) == []


async def test_a_version_is_opened_by_its_document_and_has_its_digest(opened: Opened, tmp_path: Path) -> None:
    first = await opened(json.dumps({**stance("low-risk"), "facts.json": '{"amount": "Long"}'}))
    again = await Candidates(tmp_path / "none.db", None).reopen(first.doc)
    assert (again.doc, again.digest) == (first.doc, first.digest)
    await again.aclose()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.cedar": "permit ("}, "a.cedar:1:"),
        ({}, "it is empty"),
        (stance("approval", "opa"), "broker.toml [opa] names no server"),
        ({"a.cedar": "", "b.rego": ""}, "Cedar and Rego"),
    ],
)
async def test_a_policy_that_does_not_load_is_told_with_its_problems(
    opened: Opened, files: dict[str, str], said: str
) -> None:
    await opened()
    with pytest.raises(Malformed) as bad:
        await opened(json.dumps(files))
    assert said in bad.value.reason


async def test_it_has_nothing_of_our_environment_and_yields_to_us(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWRIT_SECRET", "hunter2")
    candidate = await opened()
    assert candidate._running is not None
    pid = candidate._running.process.pid
    assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getsid(pid) != os.getsid(0)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("sys.exit(3)", "ended"),
        ("os.kill(os.getpid(), 9)", "ended"),
        ("time.sleep(600)", "timeout"),
        ("sys.stdout.buffer.write(b'\\xff' * 64); sys.stdout.buffer.flush(); time.sleep(600)", "shape"),
        ("os.close(1); time.sleep(600)", "ended"),
        ("say(b'no json'); time.sleep(600)", "shape"),
        ("say(b'{}'); time.sleep(600)", "shape"),
        ("say(b'{\"answers\": [{}]}'); time.sleep(600)", "shape"),
        ("say(b'{\"answers\": []}'); time.sleep(600)", "shape"),
        ("say(b'[]'); time.sleep(600)", "shape"),
    ],
)
async def test_a_process_that_misbehaves_is_ended_and_said_to_be(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, after: str, why: str
) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.5 if why == "timeout" else 20)
    candidate = await opened(command=broken(after))
    assert candidate._running is not None
    process = candidate._running.process
    with pytest.raises(Unavailable) as gone:
        await candidate.answers(QUESTIONS)
    assert gone.value.rule == why
    assert process.returncode is not None


async def test_it_is_started_again_but_not_at_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = await opened()
    assert candidate._running is not None
    candidate._running.process.kill()
    await candidate._running.process.wait()
    with pytest.raises(Unavailable) as gone:
        await candidate.answers(QUESTIONS)
    assert gone.value.rule == "starting"
    monkeypatch.setattr(module, "RESTART_S", 0.0)
    assert len(await candidate.answers(QUESTIONS)) == 3


async def test_one_that_does_not_load_any_more_is_in_doubt(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.0)
    candidate = await opened()
    candidate._first = {**candidate._first, "text": "{}"}
    assert candidate._running is not None
    candidate._running.process.kill()
    await candidate._running.process.wait()
    with pytest.raises(Unavailable) as doubt:
        await candidate.answers(QUESTIONS)
    assert doubt.value.rule == "doubt"


async def test_whoever_gives_up_waiting_leaves_no_process(opened: Opened) -> None:
    candidate = await opened(command=broken("time.sleep(600)"))
    assert candidate._running is not None
    process = candidate._running.process
    waiting = asyncio.create_task(candidate.answers(QUESTIONS))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.returncode is not None


async def test_a_process_ends_with_whoever_started_it(opened: Opened) -> None:
    candidate = await opened()
    assert candidate._running is not None
    process = candidate._running.process
    candidate._running.stdin.close()
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    await candidate.aclose()
    with pytest.raises(Unavailable):
        await candidate.answers(QUESTIONS)


async def test_it_replays_what_is_recorded_within_its_bounds(opened: Opened, tmp_path: Path) -> None:
    rig = Rig(tmp_path / "store.db")
    await rig.credential(await rig.accepted())
    candidate = await opened(db=rig.path)
    found = await candidate.replay(since=0.0, entries=1000, seconds=20.0, most=10)
    assert (found["asked"], found["first_entry"], found["entries_not_reached"]) == (3, 0, 0)
    newest = await candidate.replay(since=0.0, entries=1, seconds=20.0, most=10)
    assert (newest["asked"], newest["first_entry"]) == (1, 3)
    none = await candidate.replay(since=0.0, entries=1000, seconds=0.0, most=10)
    assert (none["asked"], none["entries_not_reached"]) == (0, 4)
    await rig.close()
    with pytest.raises(Unavailable) as gone:
        await (await opened()).replay(since=0.0, entries=10, seconds=20.0, most=10)
    assert gone.value.rule == "doubt"

"""A shadow is code of an operator's that decides nothing: not by being slow, by failing, or by being read."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.stage import Reply, Stage

from stepwrit_broker.flows.impact import Activation
from stepwrit_broker.policy.files import load, stance
from stepwrit_broker.wiring.candidates import COMMAND, Candidates
from stepwrit_broker.wiring.settings import BrokerSettings

NO_TRANSFERS = """
@id("no-transfers")
@reason("SECRET-OF-THE-CANDIDATE")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"],
        resource == Stepwrit::Tool::"ledger/transfer");
"""
STRICT = {**stance("approval"), "60-strict.cedar": NO_TRANSFERS}
HANGS = """
import sys, time, json
def read():
    return sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), 'big'))
def say(value):
    raw = json.dumps(value).encode()
    sys.stdout.buffer.write(len(raw).to_bytes(4, 'big') + raw); sys.stdout.buffer.flush()
read(); say({'doc': '{}', 'digest': 'sha256-x'}); read(); __MISBEHAVES__
"""


async def start(stage: Stage, files: Mapping[str, str] = STRICT, **more: Any) -> Reply:
    body = {"text": json.dumps(dict(files)), "label": "policy/", "reason": "a test says so", **more}
    return await stage.admin("POST", "/v1/admin/policy/shadow", body)


async def status(stage: Stage) -> dict[str, Any]:
    return (await stage.admin("GET", "/v1/admin/policy/shadow")).ok()


async def seen(stage: Stage, count: int) -> dict[str, Any]:
    """The shadow's report, once it has dealt with so many decisions."""
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = (await status(stage))["shadow"]
            if found["compared"] + found["dropped"] + sum(found["errors"].values()) >= count:
                return found
            await asyncio.sleep(0.02)


async def stop(stage: Stage) -> dict[str, Any]:
    return (await stage.admin("POST", "/v1/admin/policy/shadow/stop", {"reason": "a test says so"})).ok()


@pytest_asyncio.fixture(loop_scope="module")
async def clean(stage: Stage) -> AsyncIterator[Stage]:
    yield stage
    if (await status(stage))["state"] != "off":
        await stop(stage)


async def test_a_shadow_that_would_refuse_everything_refuses_nothing_and_tells(clean: Stage) -> None:
    (await start(clean)).ok()
    held = await clean.held()
    (await held.redeem()).ok()
    found = await seen(clean, 3)
    assert found["effects"] == {"newly refused": 2}
    assert found["tools"] == {"ledger/transfer": {"newly refused": 2}}
    assert found["policies"] == {"no-transfers": {"newly refused": 2}}
    assert set(found["initiators"]) == {(await clean.actor("agent/chat")).id}
    story = (await clean.admin("GET", f"/v1/admin/explain/{found['changes'][0]['refs'][0]}")).ok()
    assert story["txn"] == held.txn
    metrics = clean.broker.metrics.text().decode()
    assert 'stepwrit_policy_shadow_decisions_total{live="permit",shadow="deny"} 2.0' in metrics
    assert "stepwrit_policy_shadow_running 1.0" in metrics
    assert (
        'stepwrit_policy_shadow_disagreements_total{effect="newly_refused",tool="ledger/transfer"} 2.0'
        in metrics
    )


async def test_a_shadow_that_would_permit_everything_permits_nothing(clean: Stage) -> None:
    everything = {"a.cedar": '@id("all") permit (principal, action, resource);'}
    (await start(clean, everything)).ok()
    chat = await clean.actor("agent/chat")
    root = (await chat.intent())["step"]
    mallory = await clean.actor("mcp-server/mallory")
    (await chat.open_reply(root)).ok()
    assert (await mallory.open_reply(root)).status >= 400
    assert (await chat.open_reply(root, "ledger/wipe")).status >= 400
    found = await seen(clean, 3)
    assert found["effects"] == {"newly permitted": 1}
    assert found["changes"][0]["was"] == "approval"


async def test_no_caller_sees_a_word_of_the_shadow(clean: Stage) -> None:
    (await start(clean)).ok()
    held = await clean.held()
    await seen(clean, 3)
    chat = await clean.actor("agent/chat")
    root = (await chat.intent())["step"]
    replies = [await chat.open_reply(root, "ledger/wipe"), await held.redeem(), await held.redeem()]
    for path in ("/v1/admin/policy/shadow", "/v1/admin/policy"):
        told = await chat.send("GET", path, b"", {})
        assert told.status == 403
        replies.append(told)
    for reply in replies:
        assert b"SECRET-OF-THE-CANDIDATE" not in reply.raw
    entries = clean.broker.ledger.tail(-1, 1000, (), None)
    assert "SECRET-OF-THE-CANDIDATE" not in repr(entries)
    assert "SECRET-OF-THE-CANDIDATE" not in clean.broker.metrics.text().decode()


async def test_whoever_does_not_rule_starts_and_stops_none(clean: Stage) -> None:
    body = json.dumps({"text": json.dumps(STRICT), "reason": "mine"}).encode()
    chat, ops = await clean.actor("agent/chat"), await clean.actor("operator/ops")
    for path in ("/v1/admin/policy/shadow", "/v1/admin/policy/shadow/stop", "/v1/admin/policy/impact"):
        for actor in (chat, ops):  # the operator of one tenant among several
            told = await actor.post(path, b'{"reason": "x"}' if "stop" in path else body)
            assert told.status in (400, 403), told.raw
    assert (await status(clean))["state"] == "off"
    (await start(clean)).ok()


@pytest.mark.parametrize(
    ("misbehaves", "why"),
    [("time.sleep(600)", "timeout"), ("sys.exit(1)", "ended"), ("say({'answers': [7]}); read()", "shape")],
)
async def test_a_shadow_that_hangs_crashes_or_lies_changes_no_verdict(
    clean: Stage, monkeypatch: pytest.MonkeyPatch, misbehaves: str, why: str
) -> None:
    monkeypatch.setattr("stepwrit_broker.wiring.candidates.ASK_S", 0.3)
    command = (sys.executable, "-c", HANGS.replace("__MISBEHAVES__", misbehaves))
    desk = clean.broker.rehearsal.shadow._desk
    bad = replace(desk, workshop=Candidates(clean.folder / "none.db", None, command))
    monkeypatch.setattr(clean.broker.rehearsal.shadow, "_desk", bad)
    (await start(clean)).ok()
    held = await clean.held()
    (await held.redeem()).ok()
    found = await seen(clean, 3)
    assert found["compared"] == 0
    assert found["errors"][why] >= 1
    (await (await clean.held()).redeem()).ok()


async def test_a_candidate_with_a_fault_is_told_to_its_author_and_starts_nothing(clean: Stage) -> None:
    reply = await start(clean, {**STRICT, "70.cedar": "permit ("})
    assert reply.status == 400
    assert "70.cedar:1:" in reply.refusal["reason"]
    assert (await start(clean, version=1)).status == 400
    assert (await status(clean))["state"] == "off"


async def test_activations_do_not_end_it_and_a_restart_resumes_it() -> None:
    async with Stage() as stage:
        (await start(stage)).ok()
        await stage.held()
        await seen(stage, 3)
        low = json.dumps(stance("low-risk"))
        body = {"text": low, "source": "elsewhere", "reason": "a test says so"}
        (await stage.admin("POST", "/v1/admin/policy/apply", body)).ok()
        await stage.held()
        assert (await seen(stage, 6))["decided_under"] == {"v1": 3, "v2": 3}
        await stage.restart()
        async with asyncio.timeout(30):
            while (await status(stage))["state"] != "running":
                await asyncio.sleep(0.05)
        told = (await status(stage))["shadow"]
        assert (told["compared"], told["digest"]) == (0, load(STRICT).digest)
        assert told["resumed_at"] is not None
        await stage.held()
        assert (await seen(stage, 3))["effects"] == {"newly refused": 2}
        await stop(stage)
        kinds = [entry.kind for entry in stage.broker.ledger.tail(-1, 1000, (), None)]
        assert [kind for kind in kinds if kind.startswith("shadow.")] == [
            "shadow.started",
            "shadow.resumed",
            "shadow.stopped",
        ]
        await stage.restart()
        assert (await status(stage))["state"] == "off"


class Gated(Stage):
    """A broker whose operator asked not to be able to put a policy in force blindly."""

    def settings(self) -> BrokerSettings:
        return replace(super().settings(), activation=Activation(needs_impact=True, valid_s=600))


async def policy(stage: Stage) -> int:
    return int((await stage.admin("GET", "/v1/admin/policy")).ok()["version"])


async def test_neither_a_command_nor_a_saved_file_puts_a_policy_in_force_blindly() -> None:
    async with Gated() as stage:
        assert await policy(stage) == 1
        text = json.dumps(STRICT)
        refused_ = await stage.apply("policy", text)
        assert (refused_.status, refused_.code) == (409, "wrong_state")
        (stage.folder / "policy" / "60-strict.cedar").write_text(NO_TRANSFERS)
        await stage.broker.files.watch()
        assert await policy(stage) == 1
        assert 'stepwrit_file_good{kind="policy"} 0.0' in stage.broker.metrics.text().decode()
        await stage.restart()
        assert await policy(stage) == 1, "nor does a restart"
        other = json.dumps({**STRICT, "60-strict.cedar": NO_TRANSFERS.replace("transfers", "payments")})
        (await stage.admin("POST", "/v1/admin/policy/impact", {"text": other})).ok()
        assert (await stage.apply("policy", text)).status == 409, "a report is of exactly one policy"
        report = (await stage.admin("POST", "/v1/admin/policy/impact", {"text": text})).ok()
        assert report["needed"]
        await stage.restart()
        assert await policy(stage) == 2, "the file is as reported, also after a restart"
        history = (await stage.admin("GET", "/v1/admin/policy/history")).body[""]
        assert [each["impact"] and each["impact"]["ref"] for each in history] == [None, report["ref"]]


async def test_what_is_accepted_unknown_is_on_record_and_going_back_is_free() -> None:
    async with Gated() as stage:
        body = {"text": json.dumps(STRICT), "source": "x", "reason": "now", "accept_impact": True}
        (await stage.admin("POST", "/v1/admin/policy/apply", body)).ok()
        (await stage.admin("POST", "/v1/admin/policy/undo", {"reason": "back"})).ok()
        history = (await stage.admin("GET", "/v1/admin/policy/history")).body[""]
        assert [each["impact"] for each in history] == [
            None,
            {"accepted": "there is no impact report of exactly this policy"},
            None,
        ]


async def test_the_command_is_the_one_that_is_shipped() -> None:
    assert COMMAND[1:] == ("-I", "-m", "stepwrit_broker.wiring.candidate_process")

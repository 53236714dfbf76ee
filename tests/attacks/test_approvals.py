"""Approvals over the wire, with real Cedar in the stance `approval`: what waits, runs, and is refused.

The persons' side is tried at its own faces; here it is the flow that they all call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.stage import BANK, Actor, Opened, Reply, Stage, redeem_body, refused

from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.flows import approving
from stepwrit_broker.ports_approval import Given

WIPE: dict[str, Any] = {"method": "DELETE", "url": f"{BANK}/v1/books", "body": b""}


@pytest_asyncio.fixture(loop_scope="module")
async def stage() -> AsyncGenerator[Stage]:
    async with Stage(policy="approval") as made:
        yield made


class Asked:
    """A step of high impact that waits, and what its initiator was told."""

    def __init__(self, stage: Stage, chat: Actor, reply: Reply) -> None:
        self.stage, self.chat, self.reply = stage, chat, reply
        self.news: dict[str, Any] = reply.refusal["approval"]
        self.alice = Identity(stage.issuer.url, "alice")

    async def record(self) -> ApprovalRecord:
        found = await self.stage.broker.house.approvals.approval(self.news["id"])
        assert found is not None
        return found

    async def sign(self, digest: str | None = None) -> ApprovalRecord:
        record = await self.record()
        given = Given(by=self.alice, method="key", digest=digest or record.asked.digest, authenticator=None)
        return await approving.sign(self.stage.broker.house, self.news["id"], given)

    async def poll(self, **headers: str) -> Reply:
        self.stage.pass_time(6)
        return await self.chat.token(self.news["step"])

    async def opened(self) -> Opened:
        body = (await self.poll()).ok()
        return Opened(
            step=body["step"], txn=body["txn"], token=body["token"], args={"all": True}, by=self.chat
        )


async def ask(stage: Stage, args: dict[str, Any] | None = None) -> Asked:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    return Asked(stage, chat, await chat.open_reply(root["step"], "ledger/wipe", args or {"all": True}))


async def test_high_impact_waits_runs_once_signed_and_is_told_by_the_ledger(stage: Stage) -> None:
    asked = await ask(stage)
    assert (asked.reply.status, asked.reply.code) == (403, "authorization_pending")
    assert asked.reply.headers["retry-after"] == "5"
    assert asked.news["url"].endswith(f"/approvals/{asked.news['id']}")
    assert (await asked.poll()).code == "authorization_pending"
    await asked.sign()
    opened, ledger = await asked.opened(), await stage.actor("mcp-server/ledger")
    (await ledger.accept(opened)).ok()
    got = (await ledger.credential(opened.step, **WIPE)).ok()
    bank = await stage.actor("resource/bank/1")
    (await bank.json("/v1/redeem", redeem_body(got["access_token"], ledger, **WIPE))).ok()
    kinds = [entry.kind for entry in stage.broker.ledger.of_txn(opened.txn)]
    told = [kind for kind in kinds if kind.startswith("approval.")]
    assert told == ["approval.asked", "approval.signed", "approval.given", "approval.used"]


async def test_a_held_poll_is_answered_by_the_signature(stage: Stage) -> None:
    asked = await ask(stage)
    path = f"/v1/steps/{asked.news['step']}/token"
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": "held-poll-operation",
        "DPoP": asked.chat.proof(path),
        "Prefer": "respond-async, wait=20",
    }
    held = asyncio.create_task(asked.chat.send("POST", path, b'{"v":1}', headers))
    await asyncio.sleep(0.2)
    assert not held.done()
    await asked.sign()
    assert (await asyncio.wait_for(held, 10)).ok()["step"] == asked.news["step"]


async def test_polls_that_come_too_often_are_slowed_down(stage: Stage) -> None:
    asked = await ask(stage)
    assert (await asked.chat.token(asked.news["step"])).code == "slow_down"
    assert (await asked.poll()).code in ("slow_down", "authorization_pending")


async def test_neither_id_nor_page_opens_anything(stage: Stage) -> None:
    asked, ledger = await ask(stage), await stage.actor("mcp-server/ledger")
    refused(stage, await ledger.token(asked.news["step"]), "not_found")
    for subject in (asked.news["id"], asked.news["url"]):
        reply = await ledger.credential(subject, **WIPE)
        assert reply.status >= 400
    waits = await ledger.credential(asked.news["step"], **WIPE)
    assert (waits.status, waits.body["error"]) == (400, "authorization_pending")
    await asked.sign()
    opened = await asked.opened()
    (await ledger.accept(opened)).ok()


async def test_approve_a_run_b(stage: Stage) -> None:
    one = await ask(stage)
    other = Asked(
        stage,
        one.chat,
        await one.chat.open_reply((await stage.root())["step"], "ledger/wipe", {"all": False}),
    )
    record = await one.sign()
    assert record.state == "given"
    with pytest.raises(Exception, match="something else"):
        await other.sign(record.asked.digest)
    assert (await other.poll()).code == "authorization_pending"
    opened, ledger = await one.opened(), await stage.actor("mcp-server/ledger")
    swapped = await ledger.accept(replace(opened, args={"all": False}))
    refused(stage, swapped, "arguments_changed")
    (await ledger.accept(opened)).ok()


async def test_a_denial_is_told_and_the_same_is_not_asked_again_at_once(stage: Stage) -> None:
    asked = await ask(stage)
    await approving.deny(stage.broker.house, asked.alice, asked.news["id"], "no")
    refused(stage, await asked.poll(), "access_denied")
    again = await asked.chat.open_reply((await stage.root())["step"], "ledger/wipe")
    assert (again.status, again.code, again.refusal["rule"].split()[-1]) == (
        429, "limit", "approvals.cooldown",
    )  # fmt: skip
    refused(stage, again, "limit")


async def test_what_waits_outlives_a_restart_and_a_new_policy(stage: Stage) -> None:
    asked = await ask(stage)
    await stage.restart()
    text = "// nothing new\n" + (stage.folder / "policy" / "40-approval.cedar").read_text()
    (stage.folder / "policy" / "40-approval.cedar").write_text(text)
    await stage.broker.files.apply("policy")
    await asked.sign()
    opened, ledger = await asked.opened(), await stage.actor("mcp-server/ledger")
    (await ledger.accept(opened)).ok()
    (await ledger.credential(opened.step, **WIPE)).ok()


async def test_approve_then_a_stricter_policy(stage: Stage) -> None:
    first, second = await ask(stage), await ask(stage)
    ledger = await stage.actor("mcp-server/ledger")
    steps: list[Opened] = []
    for asked in (first, second):
        await asked.sign()
        steps.append(await asked.opened())
        (await ledger.accept(steps[-1])).ok()
    (await ledger.credential(steps[0].step, **WIPE)).ok()
    path = stage.folder / "policy" / "40-approval.cedar"
    path.write_text(path.read_text().replace(
        "@setting(", '@approvers("carol") @requester("may not sign")\n@setting(', 1
    ))  # fmt: skip
    await stage.broker.files.apply("policy")
    refused(stage, await ledger.credential(steps[1].step, **WIPE), "approval_required")


async def test_a_frozen_transaction_takes_no_signature(stage: Stage) -> None:
    asked = await ask(stage)
    record = await asked.record()
    (await stage.mark("freeze", f"txn:{record.asked.step.txn}")).ok()
    with pytest.raises(Exception, match="frozen"):
        await asked.sign()
    (await stage.mark("unfreeze", f"txn:{record.asked.step.txn}")).ok()
    assert (await asked.sign()).state == "given"

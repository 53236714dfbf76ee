"""Notices of a real broker to a real mail server and a real receiver: who is told what, and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import yaml
from tests.attacks.test_approvals import ask
from tests.fakes.receivers import Mailbox, Receiver, http_receiver, smtp_server
from tests.fakes.stage import Stage

from stepwrit_broker.approvals.mail import MailServer
from stepwrit_broker.approvals.webhook import Hook
from stepwrit_broker.wiring.settings import BrokerSettings

SECRET_WORD = "a-word-that-only-persons-read"
ARGS: dict[str, Any] = {"all": True, "note": SECRET_WORD}


class Telling(Stage):
    """A stage whose broker tells of approvals. alice wants everything here, and is a person of the list."""

    def __init__(self, box: Mailbox, receiver: Receiver) -> None:
        super().__init__(policy="approval")
        self.box, self.receiver = box, receiver

    def settings(self) -> BrokerSettings:
        secret = self.folder / "hook.secret"
        secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        hook = Hook(name="chat", url=self.receiver.url, secret_file=secret)
        server = MailServer(
            host="127.0.0.1", port=self.box.port, sender="stepwrit@corp.example", security="none", every_s=1
        )
        return replace(super().settings(), hooks=(hook,), mail=server)

    def write_registry(self, entries: list[dict[str, Any]]) -> None:
        super().write_registry(entries)
        path = self.folder / "registry.yaml"
        document = yaml.safe_load(path.read_text())
        identity = {"issuer": self.issuer.url, "subject": "alice"}
        document["persons"] = [
            {"name": "alice", "email": "alice@corp.example", "identities": [identity]},
            {
                "name": "bob",
                "email": "bob@corp.example",
                "identities": [{"issuer": self.issuer.url, "subject": "bob"}],
            },
        ]
        document["count"] = document.pop("count")  # the last line
        path.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest_asyncio.fixture(loop_scope="module")
async def stage() -> AsyncGenerator[Telling]:
    with http_receiver() as receiver:
        async with smtp_server() as box, Telling(box, receiver) as made:
            yield made


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def health(stage: Stage) -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        told: dict[str, Any] = (await http.get(f"{stage.broker.ops.url}/healthz?verbose=true")).json()
    return told


async def test_who_may_sign_is_mailed_and_the_hook_hears_it_all(stage: Telling) -> None:
    asked = await ask(stage, ARGS)
    await until(lambda: stage.box.got and stage.receiver.got)
    [(recipients, mail)] = stage.box.got
    assert recipients == ["alice@corp.example"]  # bob may not sign it
    assert asked.news["url"] in mail.get_content()
    await asked.sign()
    await until(lambda: len(stage.receiver.got) == 2)
    told = [json.loads(each.body) for each in stage.receiver.got]
    assert [each["type"] for each in told] == ["approval.asked", "approval.given"]
    assert [each["data"]["approvers"] for each in told] == [["alice"], []]
    everything = b"".join(each.body for each in stage.receiver.got) + mail.as_bytes()
    assert SECRET_WORD.encode() not in everything
    assert b'"subject"' not in everything
    sent = (await health(stage))["notices"]
    assert (sent["chat"]["sent"], sent["mail"]["sent"]) == (2, 1)
    text = stage.broker.metrics.text().decode()
    assert 'stepwrit_notices_total{channel="chat",outcome="sent"} 2.0' in text


async def test_a_reminder_goes_to_those_who_may_still_sign(stage: Telling) -> None:
    asked = await ask(stage)
    await until(lambda: stage.box.got)
    (await stage.admin("POST", f"/v1/admin/approvals/{asked.news['id']}/remind", {})).ok()
    await until(lambda: len(stage.box.got) == 2)
    assert str(stage.box.mails[1]["Subject"]).startswith("An approval still waits for you")


async def test_an_expiry_is_told_to_systems(stage: Telling) -> None:
    await ask(stage)
    stage.pass_time(3600)
    await stage.broker.chores.reap()
    await until(lambda: len(stage.receiver.got) == 2)
    assert json.loads(stage.receiver.got[1].body)["type"] == "approval.expired"


async def test_receivers_that_are_down_hold_nothing_up_and_are_told_in_healthz(stage: Telling) -> None:
    stage.receiver.answers = [(500, {})]
    stage.box.refuse = "550 no such user"
    asked = await ask(stage)
    await until(lambda: 'channel="mail",outcome="failed"} 1.0' in stage.broker.metrics.text().decode())
    await asked.sign()
    opened = await asked.opened()
    assert opened.step == asked.news["step"]
    told = (await health(stage))["notices"]
    assert told["mail"]["failed"] == 1
    assert told["mail"]["last_error"]["why"] == "the mail server refused a recipient (550)"
    assert "alice" not in json.dumps(told)


@pytest.mark.parametrize("what", ["tool", "purpose"])
async def test_a_denied_approval_is_told_without_its_reason(stage: Telling, what: str) -> None:
    asked = await ask(stage)
    path = f"/v1/admin/approvals/{asked.news['id']}/cancel"
    (await stage.admin("POST", path, {"reason": f"a secret {what}"})).ok()
    await until(lambda: len(stage.receiver.got) == 2)
    assert json.loads(stage.receiver.got[1].body)["type"] == "approval.cancelled"
    assert b"a secret" not in stage.receiver.got[1].body

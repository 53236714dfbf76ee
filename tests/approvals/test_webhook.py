"""Webhooks against a real receiver: what is sent, how it is signed, what is tried again and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from tests.approvals.notices import ALICE, NOW, notice
from tests.fakes.clock import FakeClock
from tests.fakes.receivers import Receiver, http_receiver

from stepwrit_broker.approvals.outbox import Outbox
from stepwrit_broker.approvals.webhook import Hook, Message, Webhook, read_secret, signature

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as made:
        yield made


class Sending:
    """A hook with its queue, whose waits are noted and not waited for."""

    def __init__(self, hook: Hook, clock: FakeClock) -> None:
        self.clock, self.waits, self.counts = clock, list[float](), list[str]()
        self.webhook = Webhook(hook, clock, lambda who: "alice" if who == ALICE else None)
        self.outbox: Outbox[Message] = Outbox(
            hook.name, self.webhook.deliver, clock=clock, count=self.count, sleep=self.sleep, size=3
        )

    def count(self, channel: str, outcome: str) -> None:
        assert channel == "chat"
        self.counts.append(outcome)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.time += seconds

    def put(self, **changes: Any) -> None:
        told = notice(**changes)
        self.outbox.put(self.webhook.message(told), told.expires_at)

    async def ended(self, count: int = 1) -> list[str]:
        """The outcomes, once there are so many."""
        async with asyncio.timeout(20):
            while len(self.counts) < count:
                await asyncio.sleep(0.01)
        return self.counts


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


@asynccontextmanager
async def sending(url: str, secret_file: Path, **changes: Any) -> AsyncIterator[Sending]:
    hook = replace(Hook(name="chat", url=url, secret_file=secret_file), **changes)
    made = Sending(hook, FakeClock(NOW))
    worker = asyncio.create_task(made.outbox.run())
    try:
        yield made
    finally:
        worker.cancel()
        await made.webhook.aclose()


async def test_a_notice_arrives_signed_with_names_and_the_link(receiver: Receiver, secret_file: Path) -> None:
    async with sending(f"{receiver.url}/in?x=1", secret_file) as made:
        made.put(event="given")
        assert await made.ended() == ["sent"]

    [got] = receiver.got
    said = json.loads(got.body)
    assert got.path == "/in?x=1"
    assert got.headers["content-type"] == "application/json"
    assert said["type"] == "approval.given"
    assert said["data"] == {
        "approval": notice().approval,
        "tenant": "default",
        "txn": notice().txn,
        "step": notice().step,
        "ref": "7Q2K9MZX4D",
        "tool": "ledger/wipe",
        "impact": "high",
        "initiator": "spiffe://prod.example/agent/chat",
        "requester": "alice",
        "approvers": ["bob", "carol"],
        "url": notice().url,
        "asked_at": "2027-01-15T08:00:00Z",
        "expires_at": "2027-01-15T08:15:00Z",
    }
    assert ALICE.subject.encode() not in got.body


async def test_its_signature_is_that_of_standard_webhooks(receiver: Receiver, secret_file: Path) -> None:
    async with sending(receiver.url, secret_file) as made:
        made.put()
        await made.ended()
    [got] = receiver.got

    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    theirs = standardwebhooks.Webhook(SECRET)
    at = int(got.headers["webhook-timestamp"])
    ours = signature(read_secret(secret_file), got.headers["webhook-id"], at, got.body)
    from datetime import UTC, datetime

    assert at == NOW
    assert theirs.sign(got.headers["webhook-id"], datetime.fromtimestamp(at, UTC), got.body.decode()) == ours
    assert got.headers["webhook-signature"] == ours
    assert all(name in got.headers for name in names)


async def test_what_fails_for_now_is_tried_again_under_the_same_id(
    receiver: Receiver, secret_file: Path
) -> None:
    receiver.answers = [(503, {}), (429, {"retry-after": "30"}), (500, {})]
    async with sending(receiver.url, secret_file) as made:
        made.put()
        assert await made.ended() == ["sent"]

    assert made.waits == [1, 30, 16]
    assert len({each.headers["webhook-id"] for each in receiver.got}) == 1
    assert len({each.body for each in receiver.got}) == 1
    assert [int(each.headers["webhook-timestamp"]) - NOW for each in receiver.got] == [0, 1, 31, 47]


async def test_it_gives_up_and_says_so(receiver: Receiver, secret_file: Path) -> None:
    receiver.answers = [(500, {})] * 5
    async with sending(receiver.url, secret_file) as made:
        made.put()
        assert await made.ended() == ["failed"]
        health = made.outbox.health()
        made.put()
        assert await made.ended(2) == ["failed", "sent"]

    assert health["failed"] == 1
    assert health["last_error"] == {"at": NOW + 85, "why": "status 500"}
    assert len(receiver.got) == 6


FAR = "9" * 30


@pytest.mark.parametrize(
    "after", [f"Mon, 01 Jan {FAR} 00:00:00 GMT", f"Mon, 01 Jan 2020 00:00:00 +{FAR}", "١٢"]
)
async def test_a_receivers_nonsense_neither_ends_the_worker_nor_makes_it_wait(
    receiver: Receiver, secret_file: Path, after: str
) -> None:
    receiver.answers = [(503, {"retry-after": "7"}), (503, {"retry-after": after})]
    async with sending(receiver.url, secret_file) as made:
        made.put()
        made.put()
        assert await made.ended(2) == ["sent", "sent"]

    assert made.waits == [7, 4]


async def test_an_error_of_ours_costs_one_notice_and_is_told_without_its_words() -> None:
    counts: list[str] = []

    async def deliver(item: str) -> None:
        if item == "bad":
            raise RuntimeError("a secret")

    clock = FakeClock(NOW)
    outbox: Outbox[str] = Outbox("x", deliver, clock=clock, count=lambda _, outcome: counts.append(outcome))
    for item in ("good", "bad", "good"):
        outbox.put(item, NOW + 9.0)
    worker = asyncio.ensure_future(outbox.run())
    async with asyncio.timeout(20):
        while len(counts) < 3 and not worker.done():
            await asyncio.sleep(0)
    alive = not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert (counts, alive) == (["sent", "failed", "sent"], True)
    assert outbox.health()["last_error"] == {"at": NOW, "why": "unexpected: RuntimeError"}


async def test_a_clock_in_doubt_ends_no_worker() -> None:
    """What cannot be dated is tried again, and goes out once the clock is believed."""
    counts: list[str] = []
    clock = FakeClock(NOW)

    async def deliver(_: str) -> None:
        clock.now()

    async def believed_again(_: float) -> None:
        clock.doubt = False

    outbox: Outbox[str] = Outbox(
        "x", deliver, clock=clock, count=lambda _, outcome: counts.append(outcome), sleep=believed_again
    )
    worker = asyncio.ensure_future(outbox.run())
    for count, doubt in ((1, False), (2, True), (3, False)):
        clock.doubt = doubt
        outbox.put("notice", NOW + 9.0)
        async with asyncio.timeout(20):
            while len(counts) < count and not worker.done():
                await asyncio.sleep(0)
    alive = not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert (counts, alive) == (["sent", "sent", "sent"], True)


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_a_no_is_a_no(receiver: Receiver, secret_file: Path, status: int) -> None:
    receiver.answers = [(status, {})]
    async with sending(receiver.url, secret_file) as made:
        made.put()
        assert await made.ended() == ["failed"]

    assert (len(receiver.got), made.waits) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, secret_file: Path, status: int) -> None:
    with http_receiver() as inside:
        receiver.answers = [(status, {"location": f"{inside.url}/metadata"})]
        async with sending(receiver.url, secret_file) as made:
            made.put()
            assert await made.ended() == ["failed"]
        assert inside.got == []

    assert len(receiver.got) == 1
    assert "redirects are not followed" in str(made.outbox.health())


async def test_the_environments_proxy_is_not_used(
    receiver: Receiver, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_receiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with sending(receiver.url, secret_file) as made:
            made.put()
            assert await made.ended() == ["sent"]
        assert proxy.got == []


async def test_nobody_there_is_tried_again_until_nobody_needs_it(secret_file: Path) -> None:
    with http_receiver() as gone:
        url = gone.url
    async with sending(url, secret_file) as made:
        made.put(expires_at=NOW + 20.0)
        assert await made.ended() == ["late"]

    assert made.waits == [1, 4, 16]
    assert made.outbox.health()["last_error"] == {"at": NOW + 5, "why": "ConnectError"}


async def test_a_full_queue_drops_and_holds_nobody_up(secret_file: Path, receiver: Receiver) -> None:
    made = Sending(Hook(name="chat", url=receiver.url, secret_file=secret_file), FakeClock(NOW))
    for _ in range(5):
        made.put()
    await made.webhook.aclose()

    assert made.counts == ["dropped", "dropped"]
    assert made.outbox.health()["waiting"] == 3


def test_a_hook_takes_what_it_asked_for(secret_file: Path) -> None:
    everything = Hook(name="chat", url="https://x.example", secret_file=secret_file)
    some = replace(
        everything,
        events=frozenset({"asked"}),
        initiators=("spiffe://prod.example/agent/*", "spiffe://prod.example/cron"),
    )
    cron, other = "spiffe://prod.example/cron", "spiffe://prod.example/agents"
    assert everything.wants(notice(event="cancelled"))
    assert some.wants(notice())
    assert some.wants(notice(initiator=cron))
    assert not some.wants(notice(event="given"))
    assert not some.wants(notice(initiator=other))
    assert not some.wants(notice(initiator=f"{cron}/two"))


@pytest.mark.parametrize(
    "text", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_!!!", "whsec_" + "A" * 100]
)
def test_a_secret_that_is_none_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    assert len(read_secret(path)) == 24

    path.write_text(text)
    with pytest.raises(ValueError, match="whsec_ and the base64") as bad:
        read_secret(path)
    assert "short" not in str(bad.value)

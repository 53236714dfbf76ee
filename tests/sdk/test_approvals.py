"""A step that waits for a signature, as the SDK asks about it: how often, how long, and what ends it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.sdk.test_client_fakes import (
    AGENT,
    Counting,
    FakeBroker,
    SetClock,
    SyncPort,
    lost,
    ok,
    proof_jkt,
    refused,
)
from tests.sdk.test_mcp_rig import Rig, text_of

from stepwrit import shape
from stepwrit._approving import Pending, approved
from stepwrit.client import Broker, SyncBroker
from stepwrit.errors import ApprovalPendingError, RefusedError, UnavailableError, describe, for_model
from stepwrit.flow import Flow, Lost, Request, Response, Sender, Wait
from stepwrit.jws import SigningKey
from stepwrit.wire import ApprovalAsked, OpenStepRequest, Refusal

NOW = 1_800_000_000.0
BASE = "https://broker.example"
ASKED = ApprovalAsked(id="apr_1", step="stp_1", url=f"{BASE}/approvals/apr_1", interval=5, expires_in=600)
OPENED = {
    "step": "stp_1", "txn": "t", "token": "k", "expires_in": 60, "origin": "model", "performer": "p",
    "ref": "R",
}  # fmt: skip
CALL = OpenStepRequest(parent="p", server="ledger", tool="transfer", args={"amount": 5})


def pending(code: str = "authorization_pending", *, told: bool = True) -> Response:
    refusal = Refusal(
        code=code, reason="the policy pay-by-hand says so", ref="7Q2K", rule="policy v3 pay-by-hand"
    )
    refusal = replace(refusal, approval=ASKED if told else None)
    body = json.dumps({"refusal": shape.write(refusal)}).encode()
    return Response(status=403, headers={}, body=body)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(NOW)


@pytest.fixture
def sender(clock: SetClock) -> Sender:
    return Sender(base_url=BASE, key=SigningKey.generate(), clock=clock, entropy=Counting())


class Play:
    """Runs a flow against replies, each after so many seconds; remembers what was asked and waited."""

    def __init__(self, clock: SetClock, *script: tuple[float, Response | Lost]) -> None:
        self.clock, self.script = clock, list(script)
        self.sent: list[Request] = []
        self.waits: list[float] = []

    def run(self, flow: Flow[Any]) -> Any:
        todo = next(flow)
        try:
            while True:
                todo = self.step(flow, todo)
        except StopIteration as stop:
            return stop.value

    def step(self, flow: Flow[Any], todo: Request | Wait) -> Request | Wait:
        if isinstance(todo, Wait):
            self.waits.append(todo.seconds)
            self.clock.at += todo.seconds
            return flow.send(None)
        self.sent.append(todo)
        seconds, reply = self.script.pop(0)
        self.clock.at += seconds
        return flow.throw(reply) if isinstance(reply, Lost) else flow.send(reply)


def test_it_is_asked_again_after_the_interval_and_not_before(clock: SetClock, sender: Sender) -> None:
    play = Play(clock, (0, pending()), (1, pending()), (0, ok(OPENED)))

    opened = play.run(approved(sender, ASKED, 60))

    assert opened.step == "stp_1"
    assert play.waits == [5, 4]
    assert {each.path for each in play.sent} == {"/v1/steps/stp_1/token"}


def test_the_broker_is_asked_to_hold_its_answer_for_what_is_left(clock: SetClock, sender: Sender) -> None:
    play = Play(clock, (25, pending()), (5.5, pending()), (0, ok(OPENED)))

    play.run(approved(sender, ASKED, 40))

    assert [each.headers["Prefer"] for each in play.sent] == ["wait=25", "wait=15", "wait=9"]
    assert [each.hold_s for each in play.sent] == [25, 15, 9]
    assert play.waits == [0, 0]  # held for longer than the interval: asked again at once


def test_slow_down_adds_five_seconds_for_good(clock: SetClock, sender: Sender) -> None:
    play = Play(
        clock,
        (0, pending("slow_down", told=False)),
        (0, pending("slow_down")),
        (0, pending()),
        (0, ok(OPENED)),
    )

    play.run(approved(sender, ASKED, 100))

    assert play.waits == [10, 15, 15]


def test_no_time_asks_once_and_says_where_to_sign(clock: SetClock, sender: Sender) -> None:
    play = Play(clock, (0, pending()))

    with pytest.raises(ApprovalPendingError) as waiting:
        play.run(approved(sender, ASKED, 0))

    assert waiting.value.approval == ASKED
    assert "Prefer" not in play.sent[0].headers


def test_who_is_told_to_slow_down_still_learns_where_to_sign(clock: SetClock, sender: Sender) -> None:
    with pytest.raises(ApprovalPendingError) as waiting:
        Play(clock, (0, pending("slow_down", told=False))).run(approved(sender, ASKED, 0))

    assert waiting.value.approval == ASKED
    assert ASKED.url in for_model(waiting.value.refusal)


def test_it_gives_up_in_time(clock: SetClock, sender: Sender) -> None:
    play = Play(clock, (10, pending()), (2, pending()))

    with pytest.raises(ApprovalPendingError):
        play.run(approved(sender, ASKED, 12))

    assert clock.at - NOW <= 12


@pytest.mark.parametrize("code", ["access_denied", "expired_token", "revoked"])
def test_an_end_is_an_end(clock: SetClock, sender: Sender, code: str) -> None:
    with pytest.raises(RefusedError) as no:
        Play(clock, (0, pending()), (0, refused(code, 403))).run(approved(sender, ASKED, 60))

    assert no.value.code == code
    assert not isinstance(no.value, ApprovalPendingError)


def test_a_broker_that_is_away_for_a_while_is_waited_for_with_longer_intervals(
    clock: SetClock, sender: Sender
) -> None:
    away: list[tuple[float, Response | Lost]] = [(0, lost())] * 4
    play = Play(clock, *away, (0, ok(OPENED)))

    assert play.run(approved(sender, ASKED, 60)).step == "stp_1"
    assert len({each.headers["DPoP"] for each in play.sent}) == 5
    assert play.waits[-1] > 5  # 10 s less what the retries took


def test_a_broker_that_stays_away_is_told_as_doubt(clock: SetClock, sender: Sender) -> None:
    away: list[tuple[float, Response | Lost]] = [(0, lost())] * 8

    with pytest.raises(UnavailableError):
        Play(clock, *away).run(approved(sender, ASKED, 12))


def test_what_a_model_may_see_is_the_page_and_no_policy() -> None:
    refusal = Refusal(
        code="authorization_pending",
        reason="pay-by-hand",
        ref="7Q2K",
        rule="policy v3 pay-by-hand",
        approval=ASKED,
    )

    line = for_model(refusal)

    assert line == (
        f"refused: authorization_pending. a person must sign at {ASKED.url} within 600 s;"
        " after that make the same call again. ref 7Q2K"
    )
    assert ASKED.url in describe(refusal)


def test_a_call_is_taken_up_by_one_caller_only_and_not_remembered_for_ever() -> None:
    memory, call = Pending(), ("p", "ledger", "transfer", "d")
    memory.put(call, ASKED)
    assert memory.take(call) == ASKED
    assert memory.take(call) is None

    for n in range(300):
        memory.put(("p", "ledger", "transfer", str(n)), ASKED)
    assert memory.take(("p", "ledger", "transfer", "0")) is None
    assert memory.take(("p", "ledger", "transfer", "299")) == ASKED


# --- through the clients


@pytest.fixture
def fake() -> FakeBroker:
    return FakeBroker(SetClock())


def told(fake: FakeBroker) -> Any:
    """What the fake does instead of an open: the step is there, and waits."""

    def deed(request: Request) -> Response:
        jkt = proof_jkt(request, fake.clock.now())
        row = fake.add("p", "ledger", "transfer", {"amount": 5}, jkt, AGENT)
        refusal = Refusal(code="authorization_pending", reason="sign", approval=replace(ASKED, step=row.id))
        return Response(status=403, headers={}, body=json.dumps({"refusal": shape.write(refusal)}).encode())

    return deed


def again(_request: Request) -> Response:
    return pending()


class Waiting:
    """Clients of one fake broker whose first open has to be signed, and whose first poll comes too soon."""

    def __init__(self, fake: FakeBroker) -> None:
        self.fake = fake
        self.shown: list[str] = []
        fake.instead |= {"open": [told(fake)], "fresh": [again]}

    async def show(self, asked: ApprovalAsked) -> None:
        self.shown.append(asked.url)

    async def sleep(self, seconds: float) -> None:
        self.fake.clock.at += seconds

    def sleep_sync(self, seconds: float) -> None:
        self.fake.clock.at += seconds

    def client(self) -> Broker:
        return Broker(self.fake.sent_by(AGENT), AGENT, self.fake.parts(), sleep=self.sleep)

    def sync(self) -> SyncBroker:
        return SyncBroker(SyncPort(self.fake, AGENT), AGENT, self.fake.parts(), sleep=self.sleep_sync)


async def test_a_client_waits_and_tells_once_which_page_to_show(fake: FakeBroker) -> None:
    waiting = Waiting(fake)

    opened = await waiting.client().open(CALL, wait_for_approval=60, on_approval=waiting.show)

    assert opened.step == "stp_1"
    assert waiting.shown == [ASKED.url]
    assert fake.verbs() == ["open", "fresh", "fresh"]


def test_a_blocking_client_waits_alike(fake: FakeBroker) -> None:
    waiting = Waiting(fake)

    opened = waiting.sync().open(
        CALL, wait_for_approval=60, on_approval=lambda asked: waiting.shown.append(asked.url)
    )

    assert opened.step == "stp_1"
    assert waiting.shown == [ASKED.url]
    assert fake.verbs() == ["open", "fresh", "fresh"]


async def test_without_patience_a_client_is_told_at_once(fake: FakeBroker) -> None:
    with pytest.raises(ApprovalPendingError) as waiting:
        await Waiting(fake).client().open(CALL)

    assert waiting.value.approval.url == ASKED.url
    assert fake.verbs() == ["open"]


async def test_a_lost_reply_to_an_open_does_not_ask_twice(fake: FakeBroker) -> None:
    waiting = Waiting(fake)
    fake.instead["open"].insert(0, lost())

    await waiting.client().open(CALL, wait_for_approval=60)

    sent = [request for verb, request in fake.seen if verb == "open"]
    assert len({request.headers["Idempotency-Key"] for request in sent}) == 1
    assert len(sent) == 2


async def test_whoever_is_cancelled_while_waiting_gives_the_step_up(fake: FakeBroker) -> None:
    waiting = Waiting(fake)
    waiting.sleep = anyio.sleep  # type: ignore[method-assign]

    with anyio.move_on_after(0.05):
        await waiting.client().open(CALL, wait_for_approval=600)

    assert [each["target"] for each in fake.bodies("mark")] == ["step:stp_1"]


@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_the_same_call_again_goes_on_with_the_same_step(era: str) -> None:
    rig, ran = Rig(), list[int]()

    @rig.server.tool()
    async def transfer(amount: int) -> str:
        ran.append(amount)
        return "sent"

    async with rig.guarded(era) as (client, _):
        rig.fake.instead["open"] = [told(rig.fake)]
        waiting = await client.call_tool("transfer", {"amount": 5})
        rig.fake.instead["fresh"] = [again]
        still = await client.call_tool("transfer", {"amount": 5})
        done = await client.call_tool("transfer", {"amount": 5})
        other = await client.call_tool("transfer", {"amount": 5})

    assert [waiting.is_error, still.is_error, done.is_error, other.is_error] == [True, True, False, False]
    assert ASKED.url in text_of(waiting)
    assert ASKED.url in text_of(still)
    assert rig.fake.verbs().count("open") == 2  # the first three calls are one step, the fourth is another
    assert ran == [5, 5]


@pytest.mark.parametrize("lost_poll", [True, False])
async def test_a_broker_that_is_away_does_not_make_the_call_ask_anew(lost_poll: bool) -> None:
    rig = Rig()

    @rig.server.tool()
    async def transfer(amount: int) -> str:
        return f"sent {amount}"

    async with rig.guarded("2026-07-28") as (client, _):
        rig.fake.instead["open"] = [told(rig.fake)]
        await client.call_tool("transfer", {"amount": 5})
        rig.fake.instead["fresh"] = [lost()] * 4 if lost_poll else []
        doubt = await client.call_tool("transfer", {"amount": 5})
        await client.call_tool("transfer", {"amount": 5})

    assert doubt.is_error == lost_poll
    assert rig.fake.verbs().count("open") == (1 if lost_poll else 2)


async def test_a_refused_approval_is_not_remembered() -> None:
    rig = Rig()

    @rig.server.tool()
    async def transfer(amount: int) -> str:
        return f"sent {amount}"

    async with rig.guarded("2026-07-28") as (client, _):
        rig.fake.instead["open"] = [told(rig.fake)]
        await client.call_tool("transfer", {"amount": 5})
        rig.fake.instead["fresh"] = [lambda _request: refused("access_denied", 403)]
        denied = await client.call_tool("transfer", {"amount": 5})
        anew = await client.call_tool("transfer", {"amount": 5})

    assert "access_denied" in text_of(denied)
    assert not anew.is_error
    assert rig.fake.verbs().count("open") == 2

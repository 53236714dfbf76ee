"""The exchange: what is repeated, under which name, and when it gives up."""

from __future__ import annotations

import json

import pytest
from tests.sdk.test_client_fakes import BASE, Counting, SetClock, lost, ok, refused

from stepwrit import _verbs as verbs
from stepwrit.dpop import verify_proof
from stepwrit.errors import OutcomeUnknownError, RefusedError, UnavailableError
from stepwrit.flow import Flow, InDoubtError, Lost, Request, Response, Retry, Sender, Wait
from stepwrit.jws import SigningKey
from stepwrit.wire import OpenStepRequest, RedeemRequest, StepOpened

NOW = 1_800_000_000.0
STATUS = {"step": "s", "state": "accepted", "ref": "R", "revoked": 0}
REDEEM = RedeemRequest(token="t", proof="p", method="GET", url="https://x.example/", body="b")
REDEEMED = {
    "grant": "g", "step": "s", "txn": "t", "ref": "R", "tool": "a/b", "origin": "model", "requester": None,
    "performer": "p",
    "chain": [{"step": "s", "initiator": "i", "performer": "p", "origin": "model", "new": 1}],
}  # fmt: skip


@pytest.fixture
def sender() -> Sender:
    return Sender(base_url=BASE, key=SigningKey.generate(), clock=SetClock(NOW), entropy=Counting())


def play(flow: Flow[object], script: list[Response | Lost]) -> tuple[list[Request], list[float], object]:
    """Run a flow against a script; what it asked for, how long it waited, what it returned."""
    requests: list[Request] = []
    waits: list[float] = []
    replies = iter(script)
    try:
        todo = next(flow)
        while True:
            if isinstance(todo, Wait):
                waits.append(todo.seconds)
                todo = flow.send(None)
                continue
            requests.append(todo)
            reply = next(replies)
            todo = flow.throw(reply) if isinstance(reply, Lost) else flow.send(reply)
    except StopIteration as stop:
        return requests, waits, stop.value


def test_an_answer_at_the_first_try_needs_one_request(sender: Sender) -> None:
    requests, waits, status = play(verbs.heartbeat(sender, "stp_1"), [ok(STATUS)])

    assert [request.path for request in requests] == ["/v1/steps/stp_1/heartbeat"]
    assert waits == []
    assert status.state == "accepted"


def test_a_retry_keeps_the_operation_id_and_brings_a_fresh_proof(sender: Sender) -> None:
    opened = {
        "step": "s",
        "txn": "t",
        "token": "k",
        "expires_in": 60,
        "origin": "model",
        "performer": "p",
        "ref": "R",
    }
    request = OpenStepRequest(parent="p", server="ledger", tool="transfer", args={"amount": 5})

    requests, waits, _ = play(
        verbs.open_step(sender, request), [lost(), refused("unavailable", 503), ok(opened)]
    )

    assert len(requests) == 3
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1
    assert len({request.body for request in requests}) == 1
    proofs = [
        verify_proof(r.headers["DPoP"], htm="POST", htu=BASE + "/v1/steps", now=NOW, leeway=0)
        for r in requests
    ]
    assert len({proof.jti for proof in proofs}) == 3
    assert len(waits) == 2


def test_two_tries_of_one_verb_have_different_operation_ids(sender: Sender) -> None:
    first, _, _ = play(verbs.heartbeat(sender, "s"), [ok(STATUS)])
    second, _, _ = play(verbs.heartbeat(sender, "s"), [ok(STATUS)])

    assert first[0].headers["Idempotency-Key"] != second[0].headers["Idempotency-Key"]


def test_a_refusal_is_not_repeated(sender: Sender) -> None:
    with pytest.raises(RefusedError) as no:
        play(verbs.heartbeat(sender, "s"), [refused("policy", 403, ref="7Q2K")])

    assert (no.value.code, no.value.ref) == ("policy", "7Q2K")
    assert not isinstance(no.value, UnavailableError)


def test_it_gives_up_when_the_tries_are_spent(sender: Sender) -> None:
    with pytest.raises(UnavailableError) as doubt:
        play(verbs.heartbeat(sender, "s"), [refused("unavailable", 503)] * 4)

    assert doubt.value.code == "unavailable"
    assert not isinstance(doubt.value, InDoubtError)


def test_a_hint_to_come_back_later_is_kept_and_never_undercut(sender: Sender) -> None:
    _, waits, _ = play(verbs.heartbeat(sender, "s"), [refused("unavailable", 503, retry_after=3), ok(STATUS)])

    assert waits == [3]


def test_a_hint_beyond_the_budget_ends_the_tries_at_once(sender: Sender) -> None:
    with pytest.raises(UnavailableError) as doubt:
        play(verbs.heartbeat(sender, "s"), [refused("unavailable", 503, retry_after=60)])

    assert doubt.value.refusal.retry_after == 60


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"[]", b'{"error": "x"}'])
def test_a_reply_that_makes_no_sense_is_doubt(sender: Sender, body: bytes) -> None:
    garbled = Response(status=502, headers={}, body=body)

    _, _, status = play(verbs.heartbeat(sender, "s"), [garbled, ok(STATUS)])
    assert status.step == "s"

    with pytest.raises(InDoubtError):
        play(verbs.heartbeat(sender, "s"), [garbled] * 4)


def test_an_answer_of_an_unknown_version_is_not_believed(sender: Sender) -> None:
    with pytest.raises(InDoubtError):
        play(verbs.heartbeat(sender, "s"), [ok({**STATUS, "v": 99})] * 4)


def test_members_that_a_newer_minor_version_added_are_ignored(sender: Sender) -> None:
    _, _, redeemed = play(verbs.redeem(sender, REDEEM, grant="g"), [ok({**REDEEMED, "new": {}})])

    assert redeemed.chain[0].step == "s"


def test_a_lost_redeem_is_asked_for_again_as_the_same_try(sender: Sender) -> None:
    requests, _, redeemed = play(verbs.redeem(sender, REDEEM, grant="g"), [lost(), ok(REDEEMED)])

    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1
    assert redeemed.grant == "g"


def test_a_redeem_that_stays_lost_has_an_unknown_outcome(sender: Sender) -> None:
    with pytest.raises(OutcomeUnknownError) as unknown:
        play(verbs.redeem(sender, REDEEM, grant="grt_9"), [lost(), *[lost(sent=False)] * 3])

    assert unknown.value.grant == "grt_9"


def test_a_redeem_that_never_left_is_only_unavailable(sender: Sender) -> None:
    with pytest.raises(UnavailableError):
        play(verbs.redeem(sender, REDEEM, grant="grt_9"), [lost(sent=False)] * 4)


def test_a_nonce_that_the_broker_asks_for_goes_into_the_next_proof_once(sender: Sender) -> None:
    asked = Response(status=400, headers={"dpop-nonce": "n1"}, body=refused("use_dpop_nonce", 400).body)
    opened = {
        "step": "s",
        "txn": "t",
        "token": "k",
        "expires_in": 60,
        "origin": "model",
        "performer": "p",
        "ref": "R",
    }

    requests, waits, step = play(verbs.step_token(sender, "s"), [asked, ok(opened)])
    assert isinstance(step, StepOpened)
    assert waits == []
    htu = BASE + "/v1/steps/s/token"
    verify_proof(requests[1].headers["DPoP"], htm="POST", htu=htu, now=NOW, leeway=0, nonce="n1")

    with pytest.raises(RefusedError):
        play(verbs.step_token(sender, "s"), [asked, asked])


def test_arguments_of_more_than_one_meaning_are_refused_before_anything_is_sent(sender: Sender) -> None:
    request = OpenStepRequest(parent="p", server="s", tool="t", args={"account": 2**53})

    with pytest.raises(RefusedError) as no:
        play(verbs.open_step(sender, request), [])

    assert no.value.code == "invalid_arguments"


def test_waits_grow_to_a_cap_and_stay_within_the_budget() -> None:
    retry = Retry(tries=100, first_s=1, most_s=4, budget_s=12)

    assert [retry.wait(tried, 0, None, 1.0) for tried in (1, 2, 3, 4)] == [1, 2, 4, 4]
    assert retry.wait(1, 0, None, 0.0) == 0.5
    assert retry.wait(5, 9, None, 1.0) is None


def test_no_secret_is_in_a_repr(sender: Sender) -> None:
    request = verbs.credential
    flow = request(sender, step="s", resource="r", details=None)  # type: ignore[arg-type]
    todo = next(flow)

    assert isinstance(todo, Request)
    assert "eyJ" not in repr(todo)
    assert json.dumps(dict(todo.headers))  # there is something to hide

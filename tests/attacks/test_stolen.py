"""The right token in the wrong hands, or for another thing."""

from __future__ import annotations

import json
import time

import pytest
from tests.fakes.stage import (
    BANK,
    SHOP,
    URL,
    Actor,
    Held,
    Opened,
    Stage,
    accept_body,
    credential_form,
    redeem_body,
    redeemed,
    refused,
)

from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_step_proof
from stepwrit.wire import TOKEN_TYPE_TXN

UNKNOWN = "stp_100" + "0" * 26
NOT_YOURS = ("not_found", "wrong_workload", "origin_claimed")

# --- a step token that somebody read on its way


@pytest.mark.parametrize("thief", ["mcp-server/mallory", "mcp-server/audit", "agent/chat", "resource/bank/1"])
async def test_another_workload_cannot_accept(stage: Stage, thief: str) -> None:
    opened, mallory = await stage.opened(), await stage.actor(thief)
    refused(stage, await mallory.accept(opened), *NOT_YOURS)
    (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
    assert len(stage.happened(opened.txn, "step.accepted")) == 1


@pytest.mark.parametrize("thief", ["mcp-server/mallory", "mcp-server/audit", "agent/other"])
async def test_another_workload_cannot_open_below(stage: Stage, thief: str) -> None:
    root, mallory = await stage.root(), await stage.actor(thief)
    opened = await stage.accepted("ledger/note")
    for parent in (root["step"], opened.step):
        refused(stage, await mallory.open_reply(parent, "ledger/note"), *NOT_YOURS)
    assert not stage.happened(root["txn"], "step.opened")


@pytest.mark.parametrize(
    "thief", ["mcp-server/mallory", "agent/other", "resource/bank/1", "mcp-server/ledger"]
)
async def test_another_workload_cannot_renew(stage: Stage, thief: str) -> None:
    opened, mallory = await stage.opened(), await stage.actor(thief)
    refused(stage, await mallory.token(opened.step), *NOT_YOURS)
    (await opened.by.token(opened.step)).ok()


async def test_another_key_of_the_initiator_cannot_renew_or_prove(stage: Stage) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    twin = opened.by.with_new_key()
    refused(stage, await twin.token(opened.step), "invalid_proof", "wrong_workload")
    stolen = Opened(step=opened.step, txn=opened.txn, token=opened.token, args=opened.args, by=twin)
    refused(stage, await ledger.accept(stolen), "invalid_proof")
    (await opened.by.token(opened.step)).ok()
    (await ledger.accept(opened)).ok()


async def test_a_server_that_kept_a_step_token_cannot_call_itself(stage: Stage) -> None:
    """The performer alone has no key of the initiator: a second round needs the initiator's own proof."""
    opened, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    (await ledger.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})).ok()
    digest = args_digest(dict(opened.args))
    own = make_step_proof(ledger.key, token=opened.token, args=digest, round=2, now=time.time(), jti="x" * 20)
    path = f"/v1/steps/{opened.step}/accept"
    refused(stage, await ledger.json(path, accept_body(opened, turn=2) | {"proof": own}), "invalid_proof")
    (await ledger.json(path, accept_body(opened, turn=2))).ok()


@pytest.mark.parametrize("verb", ["heartbeat", "wait", "close"])
async def test_another_workload_cannot_move_a_step(stage: Stage, verb: str) -> None:
    opened = await stage.accepted("ledger/note")
    body = {"heartbeat": {}, "wait": {"round": 1}, "close": {"outcome": "done"}}[verb]
    for thief in ("mcp-server/mallory", "agent/chat", "agent/other"):
        by = await stage.actor(thief)
        refused(stage, await by.json(f"/v1/steps/{opened.step}/{verb}", {"v": 1, **body}), *NOT_YOURS)
        refused(stage, await by.json(f"/v1/steps/{UNKNOWN}/{verb}", {"v": 1, **body}), "not_found")
    (await (await stage.actor("mcp-server/ledger")).heartbeat(opened.step)).ok()


# --- a credential


@pytest.mark.parametrize("thief", ["mcp-server/mallory", "agent/chat", "agent/other", "resource/bank/1"])
async def test_only_the_performer_gets_the_steps_credential(stage: Stage, thief: str) -> None:
    opened, by = await stage.accepted(), await stage.actor(thief)
    refused(stage, await by.credential(opened.step), *NOT_YOURS)
    by_token = credential_form(opened.token, subject_token_type=TOKEN_TYPE_TXN)
    refused(stage, await by.form(by_token), *NOT_YOURS)
    assert not stage.happened(opened.txn, "grant.issued")
    (await (await stage.actor("mcp-server/ledger")).credential(opened.step)).ok()


async def test_a_credential_is_bound_to_the_key_that_asked(stage: Stage) -> None:
    held = await stage.held()
    for thief in (await stage.actor("mcp-server/mallory"), held.ledger.with_new_key(), held.opened.by):
        refused(stage, await held.bank.redeem(held.token, thief), "wrong_workload")
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


@pytest.mark.parametrize(
    "wrong",
    [
        "resource/shop",
        "mcp-server/ledger",
        "mcp-server/mallory",
        "agent/chat",
        "trigger/nightly",
        "operator/ops",
    ],
)
async def test_only_the_audiences_resource_redeems(stage: Stage, wrong: str) -> None:
    held, by = await stage.held(), await stage.actor(wrong)
    told = refused(stage, await by.redeem(held.token, held.ledger), "wrong_workload")
    assert told.facts is not None
    assert told.facts["caller"] == by.id
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


CHANGED = {
    "method": {"method": "PUT"},
    "path": {"url": f"{BANK}/v1/refunds"},
    "query": {"url": f"{URL}?dry=1"},
    "empty query": {"url": f"{URL}?"},
    "slash": {"url": f"{URL}/"},
    "case of the path": {"url": f"{BANK}/V1/transfers"},
    "encoded slash": {"url": f"{BANK}/v1%2Ftransfers"},
    "host": {"url": "https://evil.example/v1/transfers"},
    "scheme": {"url": "http://bank.example/v1/transfers"},
    "port": {"url": "https://bank.example:8443/v1/transfers"},
    "body": {"body": b'{"cents":50000}'},
    "no body": {"body": b""},
}


@pytest.mark.parametrize("what", CHANGED)
async def test_a_credential_opens_only_the_request_it_was_made_for(stage: Stage, what: str) -> None:
    held = await stage.held()
    body = redeem_body(held.token, held.ledger, **CHANGED[what])  # type: ignore[arg-type]
    refused(stage, await held.bank.json("/v1/redeem", body), "request_changed")
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


@pytest.mark.parametrize(
    "url", ["HTTPS://bank.example/v1/transfers", "https://BANK.example:443/v1/./transfers"]
)
async def test_another_spelling_of_the_same_url_is_the_same_request(stage: Stage, url: str) -> None:
    held = await stage.held()
    (await held.bank.json("/v1/redeem", redeem_body(held.token, held.ledger, url=url))).ok()


@pytest.mark.parametrize("what", ["method", "url", "body"])
async def test_a_proof_for_another_request_than_the_guards_is_refused(stage: Stage, what: str) -> None:
    """The guard's word and the presenter's proof must speak of one request."""
    held = await stage.held()
    changed = {"method": "PUT", "url": f"{BANK}/v1/refunds", "body": body_digest(b"{}")}
    body = redeem_body(held.token, held.ledger) | {what: changed[what]}
    refused(stage, await held.bank.json("/v1/redeem", body), "invalid_proof", "request_changed")
    (await held.redeem()).ok()


OUTSIDE = {
    "method": {"method": "DELETE"},
    "path": {"url": f"{BANK}/v1/admin"},
    "parent": {"url": f"{BANK}/v1/transfers/../admin"},
    "encoded parent": {"url": f"{BANK}/v1/%2e%2e/v1/admin"},
    "longer path": {"url": f"{URL}/42"},
    "query": {"url": f"{URL}?to=eve"},
    "host": {"url": "https://evil.example/v1/transfers"},
    "userinfo": {"url": "https://bank.example@evil.example/v1/transfers"},
    "port": {"url": "https://bank.example:444/v1/transfers"},
    "fragment": {"url": f"{URL}#x"},
    "relative": {"url": "/v1/transfers"},
}


@pytest.mark.parametrize("what", OUTSIDE)
async def test_no_credential_outside_the_plan(stage: Stage, what: str) -> None:
    opened, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    told = await ledger.credential(opened.step, **OUTSIDE[what])
    refused(stage, told, "plan", "invalid_authorization_details")
    assert not stage.happened(opened.txn, "grant.issued")
    (await ledger.credential(opened.step)).ok()


@pytest.mark.parametrize(
    "account",
    ["..", ".", "", "%2e%2e", "a%2Fb", "a%5Cb", "a;b=c/d", "%00", "%0a", "a%252Fb/c", "%FF"],
)
async def test_a_placeholder_takes_one_plain_segment(stage: Stage, account: str) -> None:
    opened, ledger = await stage.accepted("ledger/lookup"), await stage.actor("mcp-server/ledger")
    bad = f"{BANK}/v1/accounts/{account}"
    refused(
        stage,
        await ledger.credential(opened.step, method="GET", url=bad),
        "plan",
        "invalid_authorization_details",
    )
    good = f"{BANK}/v1/accounts/DE-42%20x?page=2"
    (await ledger.credential(opened.step, method="GET", url=good)).ok()


@pytest.mark.parametrize("resource", [SHOP, "https://blue.example", "https://evil.example", "", f"{BANK}/"])
async def test_no_credential_for_an_audience_outside_the_plan(stage: Stage, resource: str) -> None:
    opened, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    told = await ledger.credential(opened.step, resource=resource)
    refused(stage, told, "plan", "invalid_target", "invalid_request")
    (await ledger.credential(opened.step)).ok()


@pytest.mark.parametrize(
    "form",
    [
        {"resource": f"{BANK}&resource={SHOP}"},
        {"audience": SHOP, "resource": SHOP},
        {"actor_token": "x"},
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"},
        {"grant_type": "client_credentials"},
        {"client_id": "spiffe://stage.test/mcp-server/ledger2"},
        {"authorization_details": "[]"},
        {"authorization_details": json.dumps([{"type": "stepwrit_action"}] * 2)},
    ],
    ids=lambda form: next(iter(form)),
)
async def test_a_token_request_with_something_odd_in_it_is_refused(
    stage: Stage, form: dict[str, str]
) -> None:
    opened, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    told = await ledger.form(credential_form(opened.step) | form)
    assert told.status in (400, 401, 403)
    refused(stage, told, told.code)
    assert not stage.happened(opened.txn, "grant.issued")
    (await ledger.credential(opened.step)).ok()


async def _finding(held: Held, by: Actor, **changes: str) -> None:
    body = redeem_body(held.token, held.ledger) | {"finding": "replay"} | changes
    refused(held.ledger.stage, await by.json("/v1/redeem", body), "replay")


async def test_reports_of_a_guard_spend_nothing(stage: Stage) -> None:
    held = await stage.held()
    await _finding(held, held.bank)
    await _finding(held, held.bank, proof="", body="", url="", method="")
    await _finding(held, await stage.actor("resource/shop"))
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


async def test_a_try_on_a_foreign_step_is_in_that_transactions_story(stage: Stage) -> None:
    held, mallory = await stage.held(), await stage.actor("mcp-server/mallory")
    await mallory.credential(held.step)
    await mallory.accept(held.opened)
    await mallory.heartbeat(held.step)
    await mallory.token(held.step)
    told = [entry.facts for entry in stage.happened(held.txn, "refused")]
    assert [facts["verb"] for facts in told if facts] == ["credential", "accept", "heartbeat", "token"]
    assert {facts["caller"] for facts in told if facts} == {mallory.id}
    (await held.redeem()).ok()

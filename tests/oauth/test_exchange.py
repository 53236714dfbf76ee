"""RFC 8693, 8707, 9396 and 9449 at the token endpoint: what is granted, and the word for each refusal."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from tests.fakes.bearer import Bearer, tls_client
from tests.fakes.stage import BANK, ISSUER, SHOP, URL, Actor, Opened, Reply, Stage, credential_form, new
from tests.oauth.foreign import JWT_SPIFFE, ProofKey
from tests.oauth.standard import FORM, WORKER, bearers_step

GOOD = {"type": "stepwrit_action", "method": "POST", "url": URL, "body": "x"}


async def ready(stage: Stage) -> tuple[Opened, Actor]:
    return await stage.accepted(), await stage.actor("mcp-server/ledger")


def error(reply: Reply) -> tuple[int, str]:
    return reply.status, str(reply.body["error"])


async def test_the_answer_says_what_was_granted(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    got = (await ledger.form(credential_form(opened.step))).ok()
    claims = jwt.decode(got["access_token"], options={"verify_signature": False})
    assert got["authorization_details"] == claims["authorization_details"]
    assert got["token_type"] == "DPoP"
    assert 0 < got["expires_in"] <= 60
    assert "refresh_token" not in got
    assert claims["act"] == {"sub": ledger.id, "act": {"sub": opened.by.id}}
    assert not {"exp", "nbf", "aud"} & set(claims["act"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grant_type": "client_credentials"}, (400, "unsupported_grant_type")),
        ({"grant_type": ""}, (400, "invalid_request")),
        ({"subject_token": ""}, (400, "invalid_request")),
        ({"subject_token": "a.b.c"}, (400, "invalid_request")),
        ({"subject_token": "stp_100" + "0" * 26}, (400, "invalid_request")),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, (400, "invalid_request")),
        (
            {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
            (400, "invalid_request"),
        ),
        ({"actor_token": "x", "actor_token_type": "y"}, (400, "invalid_request")),
        ({"client_secret": "x"}, (400, "invalid_request")),
        ({"resource": ""}, (400, "invalid_target")),
        ({"resource": "https://nobody.example"}, (400, "invalid_target")),
        ({"resource": f"{BANK}#x"}, (400, "invalid_target")),
        ({"audience": SHOP}, (400, "invalid_target")),
        ({"scope": "openid"}, (400, "invalid_scope")),
        ({"client_id": "spiffe://stage.test/agent/chat"}, (401, "invalid_client")),
    ],
)
async def test_each_bad_request_has_its_word_and_grants_nothing(
    stage: Stage, changes: dict[str, str], told: tuple[int, str]
) -> None:
    opened, ledger = await ready(stage)
    reply = await ledger.form({**credential_form(opened.step), **changes})
    assert error(reply) == told
    assert reply.headers["cache-control"] == "no-store"
    assert (await ledger.form(credential_form(opened.step))).ok(), "the one use was not spent"


@pytest.mark.parametrize(
    "details",
    [
        [],
        [GOOD, GOOD],
        {},
        "x",
        [{"type": "payment_initiation"}],
        [{**GOOD, "type": "stepwrit_action "}],
        [{**GOOD, "locations": [BANK]}],
        [{name: GOOD[name] for name in ("type", "method", "url")}],
        [{**GOOD, "method": 7}],
        [{**GOOD, "url": "/v1/transfers"}],
        [{**GOOD, "body": "short"}],
    ],
)
async def test_details_that_are_not_understood_are_refused(stage: Stage, details: Any) -> None:
    """RFC 9396 section 5: an unknown type, an unknown, missing or mistyped member, a bad value."""
    opened, ledger = await ready(stage)
    form = credential_form(opened.step)
    reply = await ledger.form({**form, "authorization_details": json.dumps(details)})
    assert error(reply) == (400, "invalid_authorization_details")
    assert (await ledger.form(form)).ok()


async def test_what_is_unknown_is_ignored_and_audience_names_the_target_too(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    form = credential_form(opened.step)
    named = {name: value for name, value in form.items() if name != "resource"}
    assert (await ledger.form({**named, "audience": BANK, "claims": "{}", "x": "y"})).ok()
    both = await stage.accepted()
    assert (await ledger.form({**credential_form(both.step), "audience": BANK})).ok()


async def test_two_targets_are_invalid_target_and_anything_else_twice_is_a_bad_request(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    body = urlencode(credential_form(opened.step)).encode()
    twice = {
        b"&resource=https%3A%2F%2Fshop.example": "invalid_target",
        b"&subject_token=x": "invalid_request",
    }
    for more, word in twice.items():
        assert error(await ledger.post("/oauth/token", body + more, FORM)) == (400, word)
    assert (await ledger.post("/oauth/token", body, FORM)).ok()


async def test_a_subject_token_that_has_ended_is_a_bad_request(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    assert (await ledger.form(credential_form(opened.step))).ok()
    (await ledger.close(opened.step)).ok()
    assert error(await ledger.form(credential_form(opened.step))) == (400, "invalid_request")
    other, _ = await ready(stage)
    (await stage.mark("revoke", f"step:{other.step}")).ok()
    assert error(await ledger.form(credential_form(other.step))) == (400, "invalid_request")


async def test_may_act_takes_away_and_never_admits(stage: Stage) -> None:
    """RFC 8693 section 4.4."""
    chat, other = await stage.actors("agent/chat", "agent/other")

    def proved(client: str, may_act: object) -> str:
        return stage.issuer.mint("alice", client_id=client, may_act=may_act)

    assert (await chat.form(chat.intent_form(proved("chat-app", {"sub": chat.id})))).ok()
    for may_act in (
        {"sub": other.id},
        {},
        {"sub": chat.id, "iss": ISSUER},
        {"sub": [chat.id]},
        chat.id,
        None,
    ):
        reply = await chat.form(chat.intent_form(proved("chat-app", may_act)))
        assert error(reply) == (400, "invalid_request"), may_act
        assert reply.refusal["rule"] == "may_act"
    named = await other.form(other.intent_form(proved("chat-app", {"sub": other.id})))
    assert named.refusal["rule"] == "registry clients", "being named admits nobody"


async def test_an_intent_asks_for_its_one_scope_at_the_trust_domain(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")

    def form(**changes: str) -> dict[str, str]:
        return {**chat.intent_form(stage.issuer.mint("alice", client_id="chat-app")), **changes}

    root = (await chat.form(form(scope=""))).ok()
    assert (root["token_type"], root["scope"]) == ("N_A", "intent")
    assert error(await chat.form(form(scope="openid"))) == (400, "invalid_scope")
    assert error(await chat.form(form(audience=BANK))) == (400, "invalid_target")
    assert error(await chat.form(form(resource=BANK))) == (400, "invalid_target")


# --- RFC 9449


async def test_a_proof_is_for_this_method_url_time_and_type_and_serves_once(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    key, url, now = ProofKey(), f"{stage.url}/oauth/token", int(stage.now())
    form = credential_form(opened.step)
    bad = {
        "method": key.proof("GET", url),
        "path": key.proof("POST", f"{stage.url}/oauth/revoke"),
        "host": key.proof("POST", "https://elsewhere.example/oauth/token"),
        "old": key.proof("POST", url, iat=now - 120),
        "early": key.proof("POST", url, iat=now + 60),
        "no iat": key.proof("POST", url, iat=None),
        "no jti": key.proof("POST", url, jti=None),
        "no htm": key.proof("POST", url, htm=None),
        "type": key.proof("POST", url, typ="JWT"),
        "other key": key.proof("POST", url, jwk=ProofKey().jwk),
        "no proof": "x",
    }
    for name, proof in bad.items():
        assert error(await ledger.form(form, proof=proof)) == (400, "invalid_dpop_proof"), name
    good = key.proof("POST", f"{url}?x=1#y")
    assert (await ledger.form(form, proof=good)).ok(), "htu is compared without query and fragment"
    other, _ = await ready(stage)
    again = await ledger.form(credential_form(other.step), proof=good)
    assert error(again) == (400, "invalid_dpop_proof")
    assert again.code == "replay"


async def test_two_proofs_are_none(stage: Stage) -> None:
    opened, ledger = await ready(stage)
    worker = Bearer(stage=stage, path=WORKER)
    step = await bearers_step(stage, worker)
    assert (await worker.form(credential_form(step.step))).ok()
    async with tls_client(stage) as http:
        answer = await http.post(
            "/oauth/token",
            content=urlencode(
                {
                    "client_assertion_type": JWT_SPIFFE,
                    "client_assertion": worker.token(),
                    **credential_form(step.step),
                }
            ).encode(),
            headers=[
                ("content-type", FORM),
                ("dpop", worker.proof("/oauth/token", nonce=await worker.nonce())),
                ("dpop", worker.proof("/oauth/token", nonce=await worker.nonce())),
            ],
        )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    assert (await ledger.form(credential_form(opened.step))).ok()


async def test_each_answer_brings_the_nonce_for_the_next_request(stage: Stage) -> None:
    worker = Bearer(stage=stage, path=WORKER)
    step = await bearers_step(stage, worker)
    without = await worker.form(credential_form(step.step), proof=worker.proof("/oauth/token", nonce=None))
    assert error(without) == (400, "use_dpop_nonce")
    nonce = without.headers["dpop-nonce"]
    got = await worker.form(credential_form(step.step), proof=worker.proof("/oauth/token", nonce=nonce))
    assert got.ok()
    fresh = got.headers["dpop-nonce"]
    assert (
        await worker.form(credential_form(step.step), proof=worker.proof("/oauth/token", nonce=fresh))
    ).ok()
    made_up = worker.proof("/oauth/token", nonce=new())
    assert error(await worker.form(credential_form(step.step), proof=made_up)) == (400, "use_dpop_nonce")

"""Attacks on callers that have nothing to show but a JWT-SVID, over the wire. Each after its right use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import jwt
import pytest
import pytest_asyncio
import yaml
from tests.fakes.bearer import Bearer, tls_client
from tests.fakes.stage import DOMAIN, ENTRIES, ISSUER, Opened, Stage, accept_body, new, refused, spiffe

from stepwrit.digest import b64u, unb64u
from stepwrit.dpop import make_proof
from stepwrit.jwtsvid import digest_of
from stepwrit.wire import CLIENT_ASSERTION_JWT_SPIFFE, CeilingSpec

LONE, WORKER = "agent/lone", "mcp-server/worker"
BEARERS: list[dict[str, Any]] = [
    {"id": LONE, "role": "agent", "name": "lone", "clients": ["lone-app"], "attest": ["jwt"],
     "may_start": {"tools": ["worker/*", "ledger/*"], "impact": "high"}},
    {"id": "agent/planner", "role": "agent", "name": "planner", "clients": ["planner-app"],
     "may_start": {"tools": ["worker/*"], "impact": "high"}},
    {"id": WORKER, "role": "mcp-server", "name": "worker", "attest": ["x509", "jwt"],
     "tools": {"jot": {"impact": "low", "plan": "self"}, "raze": {"impact": "high", "plan": "self"}}},
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(entries=[*ENTRIES, *BEARERS], policy="low-risk") as running:
        yield running


@pytest.fixture
def lone(stage: Stage) -> Bearer:
    return Bearer(stage=stage, path=LONE)


async def started(bearer: Bearer, **how: Any) -> Any:
    """An intent by a bearer alone."""
    stage = bearer.stage
    chat = await stage.actor("agent/chat")
    id_token = stage.issuer.mint("alice", client_id="lone-app")
    members = how.pop("members", {})
    ceiling = CeilingSpec(tools=("worker/*", "ledger/*"), impact="high")
    return await bearer.form({**chat.intent_form(id_token, ceiling=ceiling), **members}, **how)


async def opened(stage: Stage, tool: str) -> Opened:
    """A step for the worker, opened by an agent with a certificate."""
    planner = await stage.actor("agent/planner")
    ceiling = CeilingSpec(tools=("worker/*",), impact="high")
    return await planner.open((await planner.intent(ceiling=ceiling))["step"], tool)


# --- the right use


async def test_an_agent_with_a_jwt_svid_starts_and_opens_as_any_other(stage: Stage, lone: Bearer) -> None:
    root = (await started(lone)).ok()
    assert root["origin"] == "human"
    child = await lone.json(
        "/v1/steps",
        {"v": 1, "parent": root["step"], "server": "worker", "tool": "jot", "args": {"a": 1}},
    )
    assert child.ok()["origin"] == "model"
    (entry,) = stage.happened(root["txn"], "intent.opened")
    assert entry.facts is not None
    decision = stage.broker.ledger.decision(str(entry.facts["decision"]))
    assert decision is not None
    assert decision["document"]["attested_by"] == "jwt"


async def test_every_answer_has_exactly_one_nonce_that_is_good_for_the_next_proof(
    stage: Stage, lone: Bearer
) -> None:
    reply = await started(lone)
    assert reply.ok()
    assert len(reply.headers["dpop-nonce"].split(",")) == 1
    again = await started(lone, proof=lone.proof("/oauth/token", nonce=reply.headers["dpop-nonce"]))
    assert again.ok()


# --- what is shown


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"audience": ["https://other.example"]}, "audience"),
        ({"audience": [ISSUER, "https://other.example"]}, "many_audiences"),
        ({"audience": [f"{ISSUER}/"]}, "audience"),
        ({"audience": [f"{ISSUER}/oauth/token"]}, "audience"),
        ({"life": 301}, "too_long_lived"),
        ({"iat": None}, "bad_time"),
        ({"exp": int(time.time()) - 1}, "expired"),
        ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3700}, "not_yet_valid"),
        ({"sub": f"spiffe://{DOMAIN}"}, "root_path"),
        ({"sub": "spiffe://other.test/agent/lone"}, "unknown_trust_domain"),
        ({"sub": "alice"}, "not_spiffe"),
    ],
)
async def test_a_document_that_breaks_a_rule_proves_nothing(
    stage: Stage, lone: Bearer, change: dict[str, Any], fault: str
) -> None:
    assert (await started(lone)).ok()
    reply = await started(lone.holding(lone.token(**change)))
    assert (reply.status, reply.body["error"]) == (401, "invalid_client")
    assert reply.refusal["rule"] == f"jwt:{fault}"


async def test_a_document_signed_by_nobody_we_know_proves_nothing(stage: Stage, lone: Bearer) -> None:
    good = lone.token()
    assert (await started(lone.holding(good))).ok()
    head, claims, _ = good.split(".")
    other = lone.token().rpartition(".")[2]
    forged = await started(lone.holding(f"{head}.{claims}.{other}"))
    assert forged.refusal["rule"] == "jwt:signature"
    secret = jwt.encode(jwt.decode(good, options={"verify_signature": False}), "k" * 32, "HS256")
    symmetric = await started(lone.holding(secret))
    assert symmetric.refusal["rule"] == "jwt:algorithm"


async def test_the_type_of_assertion_is_told_and_a_second_way_is_refused(stage: Stage, lone: Bearer) -> None:
    assert (await started(lone)).ok()
    other = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    wrong = await started(lone, members={"client_assertion_type": other})
    assert (wrong.status, wrong.refusal["rule"]) == (401, "jwt:assertion_type")
    none = await started(lone, members={"client_assertion": ""})
    assert (none.status, none.refusal["rule"]) == (401, "jwt:no_assertion")
    named = await started(lone, members={"client_id": spiffe("agent/chat")})
    assert named.status == 401
    async with tls_client(stage) as http:
        both = await http.post(
            "/oauth/token",
            data={"client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE, "client_assertion": lone.token()},
            headers={"authorization": f"Bearer {lone.token()}"},
        )
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")


async def test_a_certificate_and_a_document_at_once_are_refused(stage: Stage, lone: Bearer) -> None:
    chat = await stage.actor("agent/chat")
    form = chat.intent_form(stage.issuer.mint("alice", client_id="chat-app"))
    assert (await chat.form(form)).ok()
    form = chat.intent_form(stage.issuer.mint("alice", client_id="chat-app"))
    both = {**form, "client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE, "client_assertion": lone.token()}
    assert (await chat.form(both)).body["error"] == "invalid_request"


async def test_only_an_entry_that_says_so_admits_a_bearer(stage: Stage, lone: Bearer) -> None:
    assert (await started(lone)).ok()
    reply = await started(Bearer(stage=stage, path="agent/chat"))
    assert (reply.status, reply.refusal["rule"]) == (401, "registry attest")
    stranger = await started(Bearer(stage=stage, path="agent/nobody"))
    assert (stranger.status, stranger.refusal["rule"]) == (401, "registry")


async def test_an_entry_that_admits_a_bearer_alone_refuses_the_certificate(
    stage: Stage, lone: Bearer
) -> None:
    assert (await started(lone)).ok()
    certified = await stage.actor(LONE)
    reply = await certified.form(certified.intent_form(stage.issuer.mint("alice", client_id="lone-app")))
    assert (reply.status, reply.refusal["rule"]) == (401, "registry attest")


# --- the stolen document


async def test_a_stolen_document_serves_only_the_key_it_was_first_shown_with(
    stage: Stage, lone: Bearer
) -> None:
    victim = lone.holding(lone.token())
    assert (await started(victim)).ok()
    assert (await started(victim)).ok()
    entry = refused(stage, await started(victim.with_new_key()), "replay")
    assert entry.facts is not None
    assert entry.facts["rule"] == "second_key"
    assert 'stepwrit_replays_total{reason="second_key"} 1.0' in stage.broker.metrics.text().decode()
    assert (await started(victim)).ok(), "the theft takes nothing from its owner"


async def test_a_rewritten_signature_is_the_same_document(stage: Stage, lone: Bearer) -> None:
    """ES256 has a second signature for each; the pin must not see another document in it."""
    victim = lone.holding(lone.token())
    assert (await started(victim)).ok()
    head, _, signature = (victim.svid or "").rpartition(".")
    raw = unb64u(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(raw[32:], "big")
    second = f"{head}.{b64u(raw[:32] + s.to_bytes(32, 'big'))}"
    assert digest_of(second) == digest_of(victim.svid or "")
    thief = victim.with_new_key().holding(second)
    assert refused(stage, await started(thief), "replay").facts["rule"] == "second_key"  # type: ignore[index]


async def test_the_pin_outlives_a_restart(stage: Stage, lone: Bearer) -> None:
    victim = lone.holding(lone.token())
    assert (await started(victim)).ok()
    await stage.restart()
    refused(stage, await started(victim.with_new_key()), "replay")
    assert (await started(victim)).ok()


async def test_of_sixteen_thieves_at_once_one_key_wins_and_stays(stage: Stage, lone: Bearer) -> None:
    document = lone.token()
    rivals = [lone.with_new_key().holding(document) for _ in range(16)]
    replies = await asyncio.gather(*(started(each) for each in rivals))
    good = [at for at, reply in enumerate(replies) if reply.status == 200]
    assert len(good) == 1
    assert all(reply.code == "replay" for at, reply in enumerate(replies) if at not in good)
    assert (await started(rivals[good[0]])).ok()


# --- the key proof and its nonce


async def test_a_proof_needs_our_recent_nonce(stage: Stage, lone: Bearer) -> None:
    nonce = await lone.nonce()
    assert (await started(lone, proof=lone.proof("/oauth/token", nonce=nonce))).ok()
    for bad in (None, "", "x" * 40, nonce[:-2] + ("AA" if nonce[-2:] != "AA" else "BB")):
        reply = await started(lone, proof=lone.proof("/oauth/token", nonce=bad))
        assert (reply.status, reply.body["error"]) == (400, "use_dpop_nonce"), bad
        assert reply.headers["dpop-nonce"]
    bare = await started(lone, proof=None)
    assert (bare.status, bare.body["error"]) == (400, "invalid_dpop_proof")


async def test_a_proof_serves_once_and_for_this_url_and_method(stage: Stage, lone: Bearer) -> None:
    proof = lone.proof("/oauth/token", nonce=await lone.nonce())
    assert (await started(lone, proof=proof)).ok()
    assert (await started(lone, proof=proof)).code == "replay"
    nonce = await lone.nonce()
    elsewhere = await started(lone, proof=lone.proof("/oauth/token", nonce=nonce, base=stage.tls_url))
    assert elsewhere.body["error"] == "invalid_dpop_proof"
    got = make_proof(lone.key, "GET", f"{ISSUER}/oauth/token", stage.now(), new(), nonce=nonce)
    assert (await started(lone, proof=got)).body["error"] == "invalid_dpop_proof"


async def test_a_verb_that_spends_no_proof_of_its_own_spends_the_bearers(stage: Stage) -> None:
    """DPoP says nothing of the body: the same proof under another body would close what was to be kept."""
    worker = Bearer(stage=stage, path=WORKER)
    step = await opened(stage, "worker/jot")
    taken = await worker.json(f"/v1/steps/{step.step}/accept", accept_body(step))
    assert taken.ok()
    path = f"/v1/steps/{step.step}/heartbeat"
    proof = worker.proof(path, nonce=await worker.nonce())
    assert (await worker.json(path, {"v": 1}, proof=proof)).ok()
    assert (await worker.json(path, {"v": 1}, proof=proof)).code == "replay"
    bare = await worker.json(path, {"v": 1}, proof=worker.proof(path, nonce=None))
    assert (bare.status, bare.code) == (401, "use_dpop_nonce")
    assert "use_dpop_nonce" in bare.headers["www-authenticate"]


async def test_a_proof_brings_one_fresh_step_token(stage: Stage, lone: Bearer) -> None:
    """A renewal writes nothing, so nothing but the pin uses up its proof."""
    root = (await started(lone)).ok()["step"]
    asked = {"v": 1, "parent": root, "server": "worker", "tool": "jot", "args": {}}
    path = f"/v1/steps/{(await lone.json('/v1/steps', asked)).ok()['step']}/token"
    proof = lone.proof(path, nonce=await lone.nonce())
    assert (await lone.json(path, {}, proof=proof)).ok()
    assert (await lone.json(path, {}, proof=proof)).code == "replay"
    assert (await lone.json(path, {})).ok()


async def test_what_was_decided_under_other_jwt_authorities_is_decided_again(stage: Stage) -> None:
    """A write tests the versions it was decided on; the keys of bearers are of them."""
    force = stage.broker.live.now_in_force
    before, watch = force().versions.bundles, stage.broker.jwt_bundles
    watch._publish(watch.current().by_domain)
    assert force().versions.bundles == before + 1


async def test_a_clock_in_doubt_is_a_typed_refusal_here_too(stage: Stage, lone: Bearer) -> None:
    """The nonce of an answer needs the time as well."""
    proof, clock = lone.proof("/oauth/token", nonce=await lone.nonce()), stage.broker.clock
    assert (await started(lone, proof=proof)).ok()
    steady, fresh = clock._wall, lone.proof("/oauth/token", nonce=await lone.nonce())
    clock._wall = lambda: steady() + 60
    told = await started(lone, proof=fresh)
    assert (told.status, told.body["error"]) == (503, "temporarily_unavailable"), told.raw
    assert told.refusal["rule"] == "clock"
    assert "dpop-nonce" not in told.headers
    clock._wall, clock._offset, clock._doubt_until = steady, steady() - clock._elapsed(), None
    assert (await started(lone)).ok()


# --- what a bearer may not do


async def test_high_impact_is_not_for_bearers_whichever_way(stage: Stage, lone: Bearer) -> None:
    worker = Bearer(stage=stage, path=WORKER)
    low = await opened(stage, "worker/jot")
    assert (await worker.json(f"/v1/steps/{low.step}/accept", accept_body(low))).ok()
    mine = (await started(lone)).ok()["step"]
    raze = {"v": 1, "parent": mine, "server": "worker", "tool": "raze", "args": {}}
    assert (await lone.json("/v1/steps", raze)).code == "policy"
    high = await opened(stage, "worker/raze")
    assert (await worker.json(f"/v1/steps/{high.step}/accept", accept_body(high))).code == "policy"
    certified = await stage.actor(WORKER)
    assert (await certified.accept(high)).ok(), "the step is still there for whoever proves more"


async def test_a_bearer_neither_redeems_nor_revokes_nor_operates(stage: Stage) -> None:
    worker = Bearer(stage=stage, path=WORKER)
    step = await opened(stage, "worker/jot")
    assert (await worker.json(f"/v1/steps/{step.step}/accept", accept_body(step))).ok()
    for path in ("/v1/redeem", "/v1/revocations", "/v1/admin/status", "/v1/admin/marks"):
        assert (await worker.json(path, {"v": 1})).status in (404, 405), path


async def test_a_role_that_operates_or_redeems_cannot_be_registered_for_bearers(stage: Stage) -> None:
    for role, extra in (("operator", {}), ("auditor", {}), ("resource", {"audience": "https://r.example"})):
        entry = {"id": f"spiffe://{DOMAIN}/x", "role": role, "name": "x", "attest": ["jwt"], **extra}
        document = {"version": 1, "entries": [entry], "count": 1}
        reply = await stage.apply("registry", yaml.safe_dump(document, sort_keys=False))
        assert reply.status == 400, role


async def test_a_frozen_bearer_is_stopped_and_a_revoked_key_too(stage: Stage, lone: Bearer) -> None:
    assert (await started(lone)).ok()
    assert (await stage.mark("freeze", f"workload:{lone.id}")).ok()
    try:
        assert (await started(lone)).code == "frozen"
    finally:
        assert (await stage.mark("unfreeze", f"workload:{lone.id}")).ok()
    assert (await started(lone)).ok()


async def test_a_frozen_key_stops_its_bearer_whatever_it_asks(stage: Stage) -> None:
    """A certificate proves no key of DPoP where none is asked for; a bearer always does."""
    worker, target = Bearer(stage=stage, path=WORKER), "key:{}"
    one, two = await opened(stage, "worker/jot"), await opened(stage, "worker/jot")
    assert (await worker.json(f"/v1/steps/{one.step}/accept", accept_body(one))).ok()
    target = target.format(worker.key.verify_key.thumbprint)
    assert (await stage.mark("freeze", target)).ok()
    try:
        taken = await worker.json(f"/v1/steps/{two.step}/accept", accept_body(two))
        refused(stage, taken, "frozen")
        assert (await worker.form({"token": two.token}, "/oauth/introspect")).code == "frozen"
        other = worker.with_new_key()
        assert (await other.json(f"/v1/steps/{two.step}/accept", accept_body(two))).ok()
        closed = await worker.json(f"/v1/steps/{one.step}/close", {"v": 1, "outcome": "done"})
        assert closed.ok(), "who is stopped may end what it has"
    finally:
        assert (await stage.mark("unfreeze", target)).ok()


async def test_withdrawn_authorities_end_what_was_good(stage: Stage, lone: Bearer) -> None:
    victim = lone.holding(lone.token())
    assert (await started(victim)).ok()
    before = stage.broker.jwt_bundles.current().generation
    stage.trust.rotate_ca(keep_previous=False)
    async with asyncio.timeout(10):
        while stage.broker.jwt_bundles.current().generation == before:
            await asyncio.sleep(0.01)
    reply = await started(victim)
    assert (reply.status, reply.refusal["rule"]) == (401, "jwt:unknown_key")
    assert (await started(lone)).ok(), "a document of the new authority is good"


async def test_a_jwt_svid_is_never_shown_again(stage: Stage, lone: Bearer) -> None:
    """Neither the ledger, nor the metrics, nor an error repeats the document."""
    victim = lone.holding(lone.token())
    reply = await started(victim)
    assert reply.ok()
    bad = await started(victim.with_new_key())
    signature = (victim.svid or "").rpartition(".")[2]
    assert signature not in bad.raw.decode()
    assert signature not in stage.broker.metrics.text().decode()
    rows = stage.broker.ledger.tail(0, 10_000, (), None)
    assert rows
    assert not any(signature in str(row.facts) for row in rows)

"""The contract of the broker's HTTP face, for every broker that claims to speak it.

A face is made by a factory in FACES. It must come up with the registry that `World` describes, and vouch for
the workload named in `send` as mutual TLS would.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from tests.fakes.stage import Stage

from stepwrit import shape
from stepwrit._testing_books import Server, Tool
from stepwrit._testing_face import FakeBroker
from stepwrit.digest import args_digest, body_digest, request_digest_of
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.flow import Request, Response
from stepwrit.jws import SigningKey, VerifyKey
from stepwrit.verify import verify_credential, verify_step_token
from stepwrit.wire import (
    GRANT_TOKEN_EXCHANGE,
    HEADER_DPOP,
    HEADER_OPERATION,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    CeilingSpec,
    IntentRequest,
    PlanItem,
    Redeemed,
    StepAccepted,
    StepOpened,
    StepStatus,
)
from stepwrit.wire_deferred import StepResumed
from stepwrit.wire_ended import EndedSteps
from stepwrit.wire_tasks import ROUND, about_task


class World:
    """What the registry of every face under test says. All tools are of low impact.

    ledger/transfer: one `POST /v1/transfers` at the bank; ledger/list: two `GET /v1/transfers`, query `page`;
    ledger/note: its own resource (`plan: self`). shop/buy: one `POST /v1/transfers` at the bank.
    """

    trust_domain = "test.internal"
    agent = "spiffe://test.internal/agent"
    other_agent = "spiffe://test.internal/other-agent"
    ledger = "spiffe://test.internal/ledger"
    shop = "spiffe://test.internal/shop"
    bank = "spiffe://test.internal/bank"
    other_resource = "spiffe://test.internal/other-resource"
    bank_audience = "https://bank.example"
    other_audience = "https://other.example"
    ceiling = ("ledger/*", "shop/*")


class Face(Protocol):
    """A broker's HTTP face under test. url: what its DPoP proofs name, without a slash at the end."""

    url: str

    async def send(self, request: Request, workload: str) -> Response: ...

    def id_token(self, agent: str) -> str:
        """A fresh ID token of a person for this agent."""
        ...


class FakeFace:
    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.url = self.broker.issuer
        registry, pay = (
            self.broker.registry,
            PlanItem(at=World.bank_audience, method="POST", path="/v1/transfers"),
        )
        look = PlanItem(at=World.bank_audience, method="GET", path="/v1/transfers", query=("page",), times=2)
        registry.agents |= {World.agent, World.other_agent}
        registry.servers["ledger"] = Server(
            name="ledger", spiffe_id=World.ledger, url="https://ledger.example/mcp"
        )
        registry.servers["shop"] = Server(name="shop", spiffe_id=World.shop)
        registry.tools["ledger/transfer"] = Tool(name="ledger/transfer", plan=(pay,))
        registry.tools["ledger/list"] = Tool(name="ledger/list", plan=(look,))
        registry.tools["ledger/note"] = Tool(name="ledger/note")
        registry.tools["shop/buy"] = Tool(name="shop/buy", plan=(pay,))
        registry.redeemers[World.bank_audience] = {World.bank}
        registry.redeemers[World.other_audience] = {World.other_resource}
        registry.lenient = False

    async def send(self, request: Request, workload: str) -> Response:
        return self.broker.handle(request, workload)

    def id_token(self, agent: str) -> str:
        return self.broker.id_token(agent=agent)


@asynccontextmanager
async def fake_face() -> AsyncIterator[Face]:
    yield FakeFace()


def _bank(request: str, **more: Any) -> dict[str, Any]:
    return {"at": World.bank_audience, "request": request, **more}


REGISTRY: list[dict[str, Any]] = [
    {"id": "agent", "role": "agent", "name": "agent", "clients": ["agent"],
     "may_start": {"tools": list(World.ceiling), "impact": "low"}},
    {"id": "other-agent", "role": "agent", "name": "other-agent", "clients": ["other-agent"],
     "may_start": {"tools": list(World.ceiling), "impact": "low"}},
    {"id": "ledger", "role": "mcp-server", "name": "ledger", "url": "https://ledger.example/mcp",
     "tools": {"transfer": {"impact": "low", "plan": [_bank("POST /v1/transfers")]},
               "list": {"impact": "low", "plan": [_bank("GET /v1/transfers", query=["page"], times=2)]},
               "note": {"impact": "low", "plan": "self"}}},
    {"id": "shop", "role": "mcp-server", "name": "shop",
     "tools": {"buy": {"impact": "low", "plan": [_bank("POST /v1/transfers")]}}},
    {"id": "bank", "role": "resource", "name": "bank", "audience": World.bank_audience},
    {"id": "other-resource", "role": "resource", "name": "other", "audience": World.other_audience},
]  # fmt: skip


class RealFace:
    """The real broker: every workload by its own SVID over mutual TLS."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.url = stage.url

    async def send(self, request: Request, workload: str) -> Response:
        path = workload.removeprefix(f"spiffe://{World.trust_domain}/")
        return await (await self._stage.transport(path)).send(request)

    def id_token(self, agent: str) -> str:
        return self._stage.issuer.mint("alice", client_id=agent.rpartition("/")[2])


@asynccontextmanager
async def real_face() -> AsyncIterator[Face]:
    async with Stage(entries=REGISTRY, domain=World.trust_domain) as stage:
        yield RealFace(stage)


Factory = Callable[[], AbstractAsyncContextManager[Face]]
FACES: list[Factory] = [fake_face, real_face]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=FACES, ids=lambda factory: factory.__name__
)
async def face(request: pytest.FixtureRequest) -> AsyncGenerator[Face]:
    """One broker for all of the module: every test works below an intent of its own."""
    factory: Factory = request.param
    async with factory() as face:
        yield face


# --- how a workload speaks


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """The refusal's code, after checking that it has the one typed shape."""
        refusal = self.body["refusal"]
        assert refusal.keys() <= {"code", "reason", "rule", "retry_after", "who_can_change_it", "ref", "doc"}
        assert refusal["reason"]
        return str(refusal["code"])


def new() -> str:
    return secrets.token_hex(16)


@dataclass(kw_only=True)
class Actor:
    face: Face
    id: str
    key: SigningKey = field(default_factory=SigningKey.generate)

    async def post(self, path: str, body: bytes, kind: str, op: str | None) -> Reply:
        headers = {
            "Content-Type": kind,
            HEADER_DPOP: make_proof(self.key, "POST", self.face.url + path, time.time(), new()),
        }
        if op is not None:
            headers[HEADER_OPERATION] = op
        response = await self.face.send(
            Request(method="POST", path=path, headers=headers, body=body), self.id
        )
        return Reply(status=response.status, body=json.loads(response.body))

    async def json(self, path: str, members: Mapping[str, Any], op: str | None = None) -> Reply:
        return await self.post(path, json.dumps(members).encode(), "application/json", op or new())

    async def form(self, members: Mapping[str, str], op: str | None = None) -> Reply:
        body = urlencode(members).encode()
        return await self.post("/oauth/token", body, "application/x-www-form-urlencoded", op or new())


@dataclass(kw_only=True)
class Cast:
    face: Face
    agent: Actor
    other_agent: Actor
    ledger: Actor
    shop: Actor
    bank: Actor
    other_resource: Actor

    # the happy path, verb by verb; each returns what its wire shape says

    async def intent(self, **changes: str) -> dict[str, Any]:
        reply = await self.agent.form({**self.intent_form(), **changes})
        assert reply.status == 200, reply.body
        return reply.body

    def intent_form(self) -> dict[str, str]:
        request = IntentRequest(
            purpose="pay invoice 42",
            ceiling=CeilingSpec(tools=World.ceiling, impact="low"),
            exp=int(time.time()) + 600,
        )
        return {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": self.face.id_token(World.agent),
            "subject_token_type": TOKEN_TYPE_ID,
            "requested_token_type": TOKEN_TYPE_TXN,
            "audience": World.trust_domain,
            "scope": "intent",
            "request_details": json.dumps(shape.write(request)),
        }

    async def open(
        self, parent: str, tool: str = "transfer", args: Mapping[str, Any] | None = None
    ) -> StepOpened:
        reply = await self.agent.json("/v1/steps", open_body(parent, tool, args))
        assert reply.status == 201, reply.body
        return shape.read(StepOpened, reply.body)

    def accept_body(
        self, opened: StepOpened, args: Mapping[str, Any] | None = None, turn: int = 1
    ) -> dict[str, Any]:
        digest = args_digest(dict(args or ARGS))
        proof = make_step_proof(
            self.agent.key, token=opened.token, args=digest, round=turn, now=time.time(), jti=new()
        )
        return {"v": 1, "token": opened.token, "proof": proof, "args": digest, "round": turn}

    async def accept(self, opened: StepOpened) -> StepAccepted:
        reply = await self.ledger.json(f"/v1/steps/{opened.step}/accept", self.accept_body(opened))
        assert reply.status == 200, reply.body
        return shape.read(StepAccepted, reply.body)

    async def accepted(self, tool: str = "transfer") -> StepOpened:
        opened = await self.open((await self.intent())["step"], tool)
        await self.accept(opened)
        return opened

    async def credential(self, step: str) -> str:
        reply = await self.ledger.form(credential_form(step))
        assert reply.status == 200, reply.body
        return str(reply.body["access_token"])

    async def a_credential(self) -> str:
        return await self.credential((await self.accepted()).step)

    def redeem_body(self, token: str, **changes: Any) -> dict[str, Any]:
        proof = make_proof(self.ledger.key, "POST", URL, time.time(), new(), ath=token_hash(token))
        body = {"v": 1, "token": token, "proof": proof, "method": "POST", "url": URL, "body": BODY}
        return body | changes

    async def redeem(self, token: str, op: str | None = None, **changes: Any) -> Reply:
        return await self.bank.json("/v1/redeem", self.redeem_body(token, **changes), op)

    async def close(self, step: str, op: str | None = None) -> Reply:
        return await self.ledger.json(f"/v1/steps/{step}/close", {"v": 1, "outcome": "done"}, op)


ARGS: dict[str, Any] = {"amount": 5, "to": "bob"}
URL = "https://bank.example/v1/transfers"
BODY = body_digest(b'{"cents":500}')


def open_body(parent: str, tool: str = "transfer", args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"v": 1, "parent": parent, "server": "ledger", "tool": tool, "args": dict(args or ARGS)}


def credential_form(step: str, **changes: str) -> dict[str, str]:
    details = {"type": "stepwrit_action", "method": "POST", "url": URL, "body": BODY} | changes
    return {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": step,
        "subject_token_type": TOKEN_TYPE_STEP,
        "requested_token_type": TOKEN_TYPE_ACCESS,
        "resource": World.bank_audience,
        "authorization_details": json.dumps([details]),
    }


@pytest.fixture
def cast(face: Face) -> Cast:
    names = ("agent", "other_agent", "ledger", "shop", "bank", "other_resource")
    return Cast(face=face, **{name: Actor(face=face, id=getattr(World, name)) for name in names})


async def published(face: Face) -> dict[str, VerifyKey]:
    reply = await face.send(Request(method="GET", path="/oauth/jwks", headers={}), World.agent)
    return {jwk["kid"]: VerifyKey.from_jwk(jwk) for jwk in json.loads(reply.body)["keys"]}


# --- the whole way


async def test_an_intent_leads_to_one_redeemed_request_and_a_closed_step(cast: Cast) -> None:
    intent = await cast.intent()
    opened = await cast.open(intent["step"])
    accepted = await cast.accept(opened)
    token = await cast.credential(opened.step)
    reply = await cast.redeem(token)
    redeemed = shape.read(Redeemed, reply.body)
    closed = shape.read(StepStatus, (await cast.close(opened.step)).body)
    assert opened.txn == accepted.txn == redeemed.txn == intent["txn"]
    assert opened.step == accepted.step == redeemed.step
    assert (opened.origin, accepted.origin, redeemed.origin) == ("model", "model", "model")
    assert (redeemed.performer, redeemed.tool) == (World.ledger, "ledger/transfer")
    assert [hop.initiator for hop in redeemed.chain] == [World.agent]
    assert redeemed.requester == accepted.requester is not None
    assert (closed.state, closed.revoked) == ("done", 1)


async def test_the_intent_answer_is_a_transaction_token_of_human_origin(cast: Cast) -> None:
    body = await cast.intent()
    assert (body["issued_token_type"], body["token_type"]) == (TOKEN_TYPE_TXN, "N_A")
    assert (body["origin"], body["proof"]) == ("human", "presented")
    assert 0 < body["expires_in"] <= 300
    assert body["ref"]


async def test_step_token_and_credential_verify_with_the_published_keys_of_their_own_kind(cast: Cast) -> None:
    opened = await cast.accepted()
    token = await cast.credential(opened.step)
    keys, now = await published(cast.face), time.time()
    steps = {kid: key for kid, key in keys.items() if kid.startswith("st-")}
    credentials = {kid: key for kid, key in keys.items() if kid.startswith("at-")}
    assert steps
    assert credentials
    issuer = await issuer_of(cast.face)
    step = verify_step_token(
        opened.token, steps, issuer=issuer, trust_domain=World.trust_domain, now=now, leeway=5
    )
    claims = verify_credential(
        token, credentials, issuer=issuer, audience=World.bank_audience, now=now, leeway=5
    )
    assert (step.performer, step.initiator_jkt) == (World.ledger, cast.agent.key.thumbprint)
    assert (step.step, step.args) == (opened.step, args_digest(ARGS))
    assert (claims.jkt, claims.performer) == (cast.ledger.key.thumbprint, World.ledger)
    assert claims.chain[0] == World.ledger
    assert claims.request == request_digest_of("POST", URL, BODY)


async def issuer_of(face: Face) -> str:
    path = "/.well-known/oauth-authorization-server"
    reply = await face.send(Request(method="GET", path=path, headers={}), World.agent)
    return str(json.loads(reply.body)["issuer"])


async def test_the_credential_answer_repeats_what_was_granted(cast: Cast) -> None:
    opened = await cast.accepted()
    reply = await cast.ledger.form(credential_form(opened.step))
    assert (reply.body["issued_token_type"], reply.body["token_type"]) == (TOKEN_TYPE_ACCESS, "DPoP")
    assert 0 < reply.body["expires_in"] <= 60
    assert reply.body["authorization_details"][0]["type"] == "stepwrit_action"
    assert reply.body["grant"]
    assert reply.body["ref"]


async def test_a_tool_that_is_its_own_resource_is_used_by_its_accept_and_gets_no_credential(
    cast: Cast,
) -> None:
    opened = await cast.open((await cast.intent())["step"], "note")
    accepted = await cast.accept(opened)
    assert accepted.self_grant
    assert accepted.plan == ()
    reply = await cast.ledger.form(credential_form(opened.step))
    assert reply.status == 403 or reply.status == 400
    assert reply.code == "plan"


async def test_a_waiting_step_takes_its_next_round_with_a_fresh_token(cast: Cast) -> None:
    opened = await cast.accepted("note")
    waiting = await cast.ledger.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})
    assert waiting.body["state"] == "waiting"
    fresh = shape.read(StepOpened, (await cast.agent.json(f"/v1/steps/{opened.step}/token", {"v": 1})).body)
    body = cast.accept_body(fresh, turn=2)
    reply = await cast.ledger.json(f"/v1/steps/{opened.step}/accept", body)
    assert reply.status == 200, reply.body
    assert (reply.body["round"], reply.body["step"]) == (2, opened.step)


async def deferred(cast: Cast, parent: str | None = None, tool: str = "transfer") -> str:
    body = open_body(parent or (await cast.intent())["step"], tool) | {"deferred": True}
    reply = await cast.agent.json("/v1/steps", body)
    assert reply.status == 201, reply.body
    return str(reply.body["step"])


async def resume(cast: Cast, step: str, who: Actor | None = None, op: str | None = None) -> Reply:
    return await (who or cast.ledger).json(f"/v1/steps/{step}/resume", {"v": 1}, op)


async def test_a_deferred_step_is_resumed_by_its_id_with_its_arguments(cast: Cast) -> None:
    step, op = await deferred(cast), new()
    reply = await resume(cast, step, op=op)
    got = shape.read(StepResumed, reply.body)
    assert (got.step, got.args, got.round, got.tool) == (step, ARGS, 1, "ledger/transfer")
    assert (await resume(cast, step, op=op)).body == reply.body
    assert (await cast.redeem(await cast.credential(step))).status == 200


async def test_a_job_runs_once_and_is_a_replay_or_done_for_every_other_try(cast: Cast) -> None:
    step = await deferred(cast)
    assert (await resume(cast, step)).status == 200
    again = await resume(cast, step)
    assert (again.code, again.body["refusal"]["retry_after"]) == ("replay", 60)
    assert (await cast.close(step)).status == 200
    assert (await resume(cast, step)).code == "already_done"


async def test_a_job_that_waits_is_resumed_for_another_round(cast: Cast) -> None:
    step = await deferred(cast, tool="note")
    assert (await resume(cast, step)).body["self_grant"]
    waiting = await cast.ledger.json(f"/v1/steps/{step}/wait", {"v": 1, "round": 1})
    assert waiting.body["state"] == "waiting"
    second = await resume(cast, step)
    assert (second.body["round"], second.body.get("self_grant")) == (2, None)


async def test_nobody_but_the_performer_resumes_and_nothing_but_what_was_deferred(cast: Cast) -> None:
    step, plain = await deferred(cast), await cast.open((await cast.intent())["step"])
    for other in (cast.shop, cast.agent, cast.bank):
        assert (await resume(cast, step, other)).code == "not_found"
    assert (await resume(cast, "stp_100" + "0" * 26)).code == "not_found"
    assert (await resume(cast, plain.step)).code == "wrong_state"
    assert (await resume(cast, step)).status == 200


async def test_a_resume_needs_a_key_proof(cast: Cast) -> None:
    step = await deferred(cast)
    headers = {"Content-Type": "application/json", HEADER_OPERATION: new()}
    bare = Request(method="POST", path=f"/v1/steps/{step}/resume", headers=headers, body=b'{"v":1}')
    answer = await cast.face.send(bare, World.ledger)
    assert (answer.status, json.loads(answer.body)["refusal"]["code"]) == (401, "invalid_proof")
    assert (await resume(cast, step)).status == 200


async def test_a_done_intent_leaves_its_job_and_one_given_up_does_not(cast: Cast) -> None:
    for outcome, status in (("done", 200), ("cancelled", 403), ("failed", 403)):
        intent = await cast.intent()
        step = await deferred(cast, intent["step"])
        closing = {"v": 1, "outcome": outcome}
        assert (await cast.agent.json(f"/v1/steps/{intent['step']}/close", closing)).status == 200
        assert (await resume(cast, step)).status == status


async def test_a_heartbeat_says_that_the_step_runs(cast: Cast) -> None:
    opened = await cast.accepted()
    reply = await cast.ledger.json(f"/v1/steps/{opened.step}/heartbeat", {"v": 1})
    assert shape.read(StepStatus, reply.body).state == "accepted"


async def test_who_runs_a_step_hears_that_another_ended_it(cast: Cast) -> None:
    first = await told(cast.ledger, None)
    assert (first.steps, first.complete) == ((), False)  # it may have missed anything
    intent = await cast.intent()
    opened = await cast.open(intent["step"])
    await cast.accept(opened)
    running = await told(cast.ledger, first.after)
    assert (running.steps, running.complete) == ((), True)
    await cast.agent.json(f"/v1/steps/{intent['step']}/close", {"v": 1, "outcome": "done"})
    heard = await told(cast.ledger, first.after)
    assert [(each.step, each.state) for each in heard.steps] == [(opened.step, "cancelled")]
    assert (await told(cast.ledger, heard.after)).steps == ()
    assert (await told(cast.shop, (await told(cast.shop, None)).after)).steps == ()
    assert (await told(cast.ledger, "of.another.process.7")).complete is False


async def test_a_step_that_its_performer_closes_is_no_news_to_it(cast: Cast) -> None:
    first = await told(cast.ledger, None)
    opened = await cast.accepted()
    await cast.close(opened.step)
    heard = await told(cast.ledger, first.after)
    assert (heard.steps, heard.complete) == ((), True)


async def told(who: Actor, after: str | None) -> EndedSteps:
    asked = {"v": 1} | ({} if after is None else {"after": after})
    return shape.read(EndedSteps, (await who.json("/v1/steps/ended", asked)).body)


# --- replay


async def test_a_second_redeem_of_a_credential_is_a_replay(cast: Cast) -> None:
    token = await cast.a_credential()
    assert (await cast.redeem(token)).status == 200
    second = await cast.redeem(token)
    assert (second.status, second.code) == (403, "replay")


async def test_twenty_redeems_at_once_give_one_go_ahead(cast: Cast) -> None:
    token = await cast.a_credential()
    replies = await asyncio.gather(*(cast.redeem(token) for _ in range(20)))
    assert sorted(reply.status for reply in replies) == [200] + [403] * 19
    assert {reply.code for reply in replies if reply.status != 200} == {"replay"}


async def test_a_second_accept_of_a_round_is_a_replay(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    await cast.accept(opened)
    path = f"/v1/steps/{opened.step}/accept"
    second = await cast.ledger.json(path, cast.accept_body(opened))
    assert (second.status, second.code) == (403, "replay")


async def test_one_id_token_starts_one_intent(cast: Cast) -> None:
    form = cast.intent_form()
    assert (await cast.agent.form(form)).status == 200
    second = await cast.agent.form(form)
    assert second.status in (400, 403)
    assert second.code in ("human_proof", "replay")
    assert second.body["error"]


async def test_the_plan_counts_how_often_a_request_was_granted(cast: Cast) -> None:
    opened = await cast.accepted()
    await cast.credential(opened.step)
    second = await cast.ledger.form(credential_form(opened.step))
    assert second.code == "plan"


# --- something was changed on the way


async def test_changed_arguments_are_refused_and_change_nothing(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    path = f"/v1/steps/{opened.step}/accept"
    changed = await cast.ledger.json(path, cast.accept_body(opened, {"amount": 5000, "to": "eve"}))
    assert (changed.status, changed.code) == (403, "arguments_changed")
    await cast.accept(opened)


async def test_a_step_proof_by_another_key_than_the_initiators_is_refused(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    digest = args_digest(ARGS)
    stolen = make_step_proof(
        SigningKey.generate(), token=opened.token, args=digest, round=1, now=time.time(), jti=new()
    )
    path = f"/v1/steps/{opened.step}/accept"
    refused = await cast.ledger.json(path, cast.accept_body(opened) | {"proof": stolen})
    assert (refused.status, refused.code) == (401, "invalid_proof")
    await cast.accept(opened)


@pytest.mark.parametrize(
    "change",
    [
        {"body": body_digest(b'{"cents":50000}')},
        {"url": URL + "?page=2"},
        {"url": "https://bank.example/v1/others"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_changed_request_is_refused_and_spends_nothing(cast: Cast, change: dict[str, str]) -> None:
    token = await cast.a_credential()
    url = change.get("url", URL)
    proof = make_proof(cast.ledger.key, "POST", url, time.time(), new(), ath=token_hash(token))
    refused = await cast.redeem(token, proof=proof, **change)
    assert (refused.status, refused.code) == (403, "request_changed")
    assert (await cast.redeem(token)).status == 200


async def test_a_redeem_with_another_keys_proof_is_refused_and_spends_nothing(cast: Cast) -> None:
    token = await cast.a_credential()
    stolen = make_proof(SigningKey.generate(), "POST", URL, time.time(), new(), ath=token_hash(token))
    refused = await cast.redeem(token, proof=stolen)
    assert (refused.status, refused.code) == (403, "wrong_workload")
    assert (await cast.redeem(token)).status == 200


@pytest.mark.parametrize("changes", [{"method": "DELETE"}, {"url": "https://bank.example/v1/admin"}])
async def test_a_request_outside_the_plan_gets_no_credential(cast: Cast, changes: dict[str, str]) -> None:
    opened = await cast.accepted()
    refused = await cast.ledger.form(credential_form(opened.step, **changes))
    assert refused.code == "plan"
    await cast.credential(opened.step)


# --- the wrong caller


@pytest.mark.parametrize("who", ["other_resource", "ledger"])
async def test_a_wrong_redeemer_is_refused_and_spends_nothing(cast: Cast, who: str) -> None:
    token = await cast.a_credential()
    wrong: Actor = getattr(cast, who)
    refused = await wrong.json("/v1/redeem", cast.redeem_body(token))
    assert (refused.status, refused.code) == (403, "wrong_workload")
    assert (await cast.redeem(token)).status == 200


async def test_a_finding_is_recorded_under_a_ref_and_spends_nothing(cast: Cast) -> None:
    token = await cast.a_credential()
    told = await cast.redeem(token, finding="request_changed")
    assert told.status == 403
    assert told.code == "request_changed"
    assert told.body["refusal"]["ref"]
    assert (await cast.redeem(token)).status == 200


@pytest.mark.parametrize(
    "seen",
    [{"proof": ""}, {"proof": "", "body": ""}, {"url": World.bank_audience}, {"url": "", "method": ""}],
    ids=["no proof", "no body read", "base url", "nothing read"],
)
async def test_a_finding_is_recorded_however_little_the_guard_has_read(
    cast: Cast, seen: dict[str, str]
) -> None:
    token = await cast.a_credential()
    told = await cast.redeem(token, finding="invalid_proof", **seen)
    assert told.status in (401, 403)
    assert told.code == "invalid_proof"
    assert told.body["refusal"]["ref"]
    assert (await cast.redeem(token)).status == 200


async def test_a_finding_about_a_step_token_or_a_foreign_token_is_recorded(cast: Cast) -> None:
    opened = await cast.accepted()
    for token in (opened.token, "no.token.atall"):
        told = await cast.redeem(token, finding="invalid_token")
        assert (told.status, told.code) == (401, "invalid_token")
        assert told.body["refusal"]["ref"]
    assert (await cast.redeem(await cast.credential(opened.step))).status == 200


async def test_a_finding_about_a_credential_for_another_audience_is_recorded(cast: Cast) -> None:
    token = await cast.a_credential()
    told = await cast.other_resource.json("/v1/redeem", cast.redeem_body(token, finding="invalid_token"))
    assert told.status in (401, 403)
    assert told.code == "invalid_token"
    assert told.body["refusal"]["ref"]
    assert (await cast.redeem(token)).status == 200


async def test_a_performers_finding_is_recorded_under_a_ref_and_changes_nothing(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    path = f"/v1/steps/{opened.step}/accept"
    told = await cast.ledger.json(path, cast.accept_body(opened) | {"finding": "arguments_changed"})
    assert told.status == 403
    assert told.code == "arguments_changed"
    assert told.body["refusal"]["ref"]
    await cast.accept(opened)


UNKNOWN = "stp_100" + "0" * 26


async def test_steps_of_other_callers_look_like_unknown_ones(cast: Cast) -> None:
    opened = await cast.accepted()
    bodies: dict[str, dict[str, Any]] = {
        "heartbeat": {"v": 1},
        "wait": {"v": 1, "round": 1},
        "close": {"v": 1, "outcome": "done"},
    }
    for verb, body in bodies.items():
        foreign = await cast.shop.json(f"/v1/steps/{opened.step}/{verb}", body)
        unknown = await cast.shop.json(f"/v1/steps/{UNKNOWN}/{verb}", body)
        assert (foreign.status, foreign.code) == (unknown.status, unknown.code) == (404, "not_found"), verb
        assert foreign.body["refusal"]["reason"] == unknown.body["refusal"]["reason"]
    assert (await cast.close(opened.step)).status == 200


async def test_a_parent_of_another_caller_looks_like_an_unknown_one(cast: Cast) -> None:
    intent = await cast.intent()
    foreign = await cast.other_agent.json("/v1/steps", open_body(intent["step"]))
    unknown = await cast.other_agent.json("/v1/steps", open_body(UNKNOWN))
    assert (foreign.status, foreign.code) == (unknown.status, unknown.code) == (404, "not_found")
    await cast.open(intent["step"])


async def test_only_the_initiator_gets_fresh_tokens(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    path = f"/v1/steps/{opened.step}/token"
    for wrong in (cast.other_agent, cast.ledger):
        assert (await wrong.json(path, {"v": 1})).code == "not_found"
    assert (await cast.agent.json(path, {"v": 1})).status == 201


async def test_only_the_performer_gets_credentials(cast: Cast) -> None:
    opened = await cast.accepted()
    foreign = await cast.shop.form(credential_form(opened.step))
    unknown = await cast.shop.form(credential_form(UNKNOWN))
    assert foreign.code == unknown.code == "not_found"
    await cast.credential(opened.step)


async def test_only_the_named_performer_accepts(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    refused = await cast.shop.json(f"/v1/steps/{opened.step}/accept", cast.accept_body(opened))
    assert refused.code in ("wrong_workload", "not_found")
    await cast.accept(opened)


# --- tasks


def attend_body(
    key: Any, step: str, about: str = "tasks/get", *, changes: bool = False, jti: str | None = None
) -> dict[str, Any]:
    digest = about_task(about, {"taskId": "t1"})
    proof = make_step_proof(key, token=step, args=digest, round=ROUND, now=time.time(), jti=jti or new())
    return {"v": 1, "proof": proof, "args": digest, "changes": changes}


async def test_a_performer_asks_whether_the_initiator_wants_this_of_a_task(cast: Cast) -> None:
    opened = await cast.accepted()
    path = f"/v1/steps/{opened.step}/attend"
    told = await cast.ledger.json(path, attend_body(cast.agent.key, opened.step, changes=True))
    assert (told.status, told.body["state"], told.body["step"]) == (200, "accepted", opened.step)
    assert (await cast.close(opened.step)).status == 200
    read = await cast.ledger.json(path, attend_body(cast.agent.key, opened.step))
    assert (read.status, read.body["state"]) == (200, "done")
    late = await cast.ledger.json(path, attend_body(cast.agent.key, opened.step, changes=True))
    assert late.code == "already_done"


async def test_a_task_is_proved_by_its_initiators_key_over_this_step_and_request(cast: Cast) -> None:
    opened, other = await cast.accepted(), await cast.accepted()
    path = f"/v1/steps/{opened.step}/attend"
    right = attend_body(cast.agent.key, opened.step)
    wrong = [
        attend_body(cast.other_agent.key, opened.step),
        attend_body(cast.agent.key, other.step),
        {**right, "args": about_task("tasks/cancel", {"taskId": "t1"})},
        {**right, "proof": "no.proof.atall"},
    ]
    for body in wrong:
        assert (await cast.ledger.json(path, body)).code == "invalid_proof"
    assert (await cast.ledger.json(path, right)).status == 200
    assert (await cast.ledger.json(path, right)).code == "replay"


async def test_only_the_performer_asks_about_a_task(cast: Cast) -> None:
    opened = await cast.accepted()
    for who in (cast.shop, cast.agent):
        foreign = await who.json(f"/v1/steps/{opened.step}/attend", attend_body(cast.agent.key, opened.step))
        unknown = await who.json(f"/v1/steps/{UNKNOWN}/attend", attend_body(cast.agent.key, UNKNOWN))
        assert (foreign.status, foreign.code) == (unknown.status, unknown.code) == (404, "not_found")
    told = await cast.ledger.json(f"/v1/steps/{opened.step}/attend", attend_body(cast.agent.key, opened.step))
    assert told.status == 200


# --- states


async def test_a_step_that_was_not_accepted_yields_no_credential(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    refused = await cast.ledger.form(credential_form(opened.step))
    assert (refused.status, refused.code) == (400, "wrong_state")
    await cast.accept(opened)
    await cast.credential(opened.step)


async def test_a_closed_step_yields_nothing_more(cast: Cast) -> None:
    opened = await cast.accepted()
    token = await cast.credential(opened.step)
    assert (await cast.close(opened.step)).body["state"] == "done"
    redeem = await cast.redeem(token)
    assert (redeem.status, redeem.code) == (403, "closed")
    credential = await cast.ledger.form(credential_form(opened.step))
    accept = await cast.ledger.json(f"/v1/steps/{opened.step}/accept", cast.accept_body(opened))
    again = await cast.close(opened.step)
    assert {credential.code, accept.code, again.code} == {"already_done"}


async def test_a_parent_that_has_ended_takes_its_open_children_with_it(cast: Cast) -> None:
    intent = await cast.intent()
    opened = await cast.open(intent["step"])
    await cast.accept(opened)
    token = await cast.credential(opened.step)
    ended = await cast.agent.json(f"/v1/steps/{intent['step']}/close", {"v": 1, "outcome": "done"})
    assert ended.status == 200, ended.body
    assert (await cast.redeem(token)).code == "closed"
    assert (await cast.agent.json("/v1/steps", open_body(intent["step"]))).status == 403


async def test_a_tool_outside_the_ceiling_is_refused(cast: Cast) -> None:
    narrow = json.dumps(
        {
            "v": 1,
            "purpose": "read only",
            "ceiling": {"tools": ["ledger/list"], "impact": "low"},
            "exp": int(time.time()) + 600,
        }
    )
    intent = await cast.intent(request_details=narrow)
    refused = await cast.agent.json("/v1/steps", open_body(intent["step"], "transfer"))
    assert (refused.status, refused.code) == (403, "ceiling")
    await cast.open(intent["step"], "list")


async def test_a_word_on_influence_is_refused_from_whom_nobody_believes(cast: Cast) -> None:
    root = (await cast.intent())["step"]
    first = await cast.open(root)
    for claim in ([], [first.step]):
        reply = await cast.agent.json("/v1/steps", open_body(root) | {"influence": claim})
        assert (reply.status, reply.code) == (403, "influence_claimed")
    await cast.open(root)


async def test_an_unknown_tool_or_server_is_not_registered(cast: Cast) -> None:
    intent = await cast.intent()
    for change in ({"tool": "nothing"}, {"server": "nobody"}):
        refused = await cast.agent.json("/v1/steps", open_body(intent["step"]) | change)
        assert refused.status in (400, 403)
        assert refused.code == "not_registered"
    await cast.open(intent["step"])


# --- operation ids


async def test_the_same_operation_gets_the_first_answer(cast: Cast) -> None:
    intent = await cast.intent()
    op, body = new(), open_body(intent["step"])
    first, second = await cast.agent.json("/v1/steps", body, op), await cast.agent.json("/v1/steps", body, op)
    assert first.status == second.status == 201
    assert first.body["step"] == second.body["step"]


async def test_a_repeated_credential_request_mints_the_same_grant(cast: Cast) -> None:
    opened = await cast.accepted()
    op, form = new(), credential_form(opened.step)
    first, second = await cast.ledger.form(form, op), await cast.ledger.form(form, op)
    assert first.status == second.status == 200, second.body
    assert first.body["grant"] == second.body["grant"]
    assert (await cast.redeem(second.body["access_token"])).status == 200


async def test_a_repeated_redeem_is_answered_again_and_is_no_second_use(cast: Cast) -> None:
    token, op = await cast.a_credential(), new()
    body = cast.redeem_body(token)
    first = await cast.bank.json("/v1/redeem", body, op)
    second = await cast.bank.json("/v1/redeem", body, op)
    assert first.status == second.status == 200
    assert first.body == second.body
    assert (await cast.redeem(token)).code == "replay"


async def test_the_same_operation_with_other_content_is_refused(cast: Cast) -> None:
    intent, op = await cast.intent(), new()
    assert (await cast.agent.json("/v1/steps", open_body(intent["step"]), op)).status == 201
    reused = await cast.agent.json("/v1/steps", open_body(intent["step"], "note"), op)
    assert (reused.status, reused.code) == (409, "operation_reused")


async def test_an_operation_id_belongs_to_its_caller(cast: Cast) -> None:
    op = new()
    assert (await cast.agent.json("/v1/steps", open_body((await cast.intent())["step"]), op)).status == 201
    form = {**cast.intent_form(), "subject_token": cast.face.id_token(World.other_agent)}
    assert (await cast.other_agent.form(form, op)).status == 200


async def test_a_changing_request_without_an_operation_id_is_refused(cast: Cast) -> None:
    intent = await cast.intent()
    body = json.dumps(open_body(intent["step"])).encode()
    refused = await cast.agent.post("/v1/steps", body, "application/json", None)
    assert (refused.status, refused.code) == (400, "invalid_request")


# --- malformed


async def test_unknown_members_are_refused(cast: Cast) -> None:
    opened = await cast.open((await cast.intent())["step"])
    surprise = {"origin": "human"}
    accept = cast.accept_body(opened) | surprise
    assert (await cast.ledger.json(f"/v1/steps/{opened.step}/accept", accept)).status in (400, 403)
    await cast.accept(opened)
    token = await cast.credential(opened.step)
    redeem = await cast.bank.json("/v1/redeem", cast.redeem_body(token) | {"surprise": 1})
    close = await cast.ledger.json(
        f"/v1/steps/{opened.step}/close", {"v": 1, "outcome": "done", "surprise": 1}
    )
    assert [(each.status, each.code) for each in (redeem, close)] == [(400, "invalid_request")] * 2
    assert (await cast.redeem(token)).status == 200


async def test_unknown_members_of_authorization_details_are_refused(cast: Cast) -> None:
    opened = await cast.accepted()
    for change in ({"surprise": "1"}, {"type": "other"}):
        refused = await cast.ledger.form(credential_form(opened.step, **change))
        assert (refused.status, refused.code) == (400, "invalid_authorization_details")
        assert refused.body["error"] == "invalid_authorization_details"
    await cast.credential(opened.step)


async def test_another_version_is_told_to_upgrade(cast: Cast) -> None:
    intent = await cast.intent()
    refused = await cast.agent.json("/v1/steps", open_body(intent["step"]) | {"v": 99})
    assert (refused.status, refused.code) == (400, "upgrade_required")


@pytest.mark.parametrize("args", ['{"a":1,"a":2}', '{"a":9007199254740993}', '{"a":NaN}', '{"a":"\\ud800"}'])
async def test_arguments_of_more_than_one_meaning_are_refused(cast: Cast, args: str) -> None:
    intent = await cast.intent()
    body = json.dumps(open_body(intent["step"], args={"here": 1})).replace('{"here": 1}', args)
    refused = await cast.agent.post("/v1/steps", body.encode(), "application/json", new())
    assert refused.status == 400
    assert refused.code in ("invalid_request", "invalid_arguments")
    await cast.open(intent["step"])


async def test_a_dpop_proof_is_good_once(cast: Cast) -> None:
    intent = await cast.intent()
    proof = make_proof(cast.agent.key, "POST", cast.face.url + "/v1/steps", time.time(), new())
    body = json.dumps(open_body(intent["step"])).encode()

    async def send() -> Response:
        headers = {"Content-Type": "application/json", HEADER_DPOP: proof, HEADER_OPERATION: new()}
        return await cast.face.send(
            Request(method="POST", path="/v1/steps", headers=headers, body=body), World.agent
        )

    assert (await send()).status == 201
    assert (await send()).status in (401, 403)


async def test_a_step_needs_a_key_to_be_bound_to(cast: Cast) -> None:
    intent = await cast.intent()
    headers = {"Content-Type": "application/json", HEADER_OPERATION: new()}
    body = json.dumps(open_body(intent["step"])).encode()
    request = Request(method="POST", path="/v1/steps", headers=headers, body=body)
    response = await cast.face.send(request, World.agent)
    assert response.status == 401
    assert json.loads(response.body)["refusal"]["code"] == "invalid_proof"


async def test_an_unregistered_workload_gets_nothing(cast: Cast) -> None:
    stranger = Actor(face=cast.face, id="spiffe://test.internal/stranger")
    form = {**cast.intent_form(), "subject_token": cast.face.id_token(stranger.id)}
    refused = await stranger.form(form)
    assert refused.status in (401, 403)
    assert refused.code in ("unattested", "not_registered")

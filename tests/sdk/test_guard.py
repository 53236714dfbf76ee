"""The guard in front of a FastAPI application, with the in-memory broker behind it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from stepwrit._testing_books import Server, Tool
from stepwrit._testing_face import FakeBroker
from stepwrit._verbs import Subject
from stepwrit.client import Broker, Parts
from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.errors import ConfigurationError
from stepwrit.flow import Lost, Response, Retry
from stepwrit.flow import Request as BrokerRequest
from stepwrit.guard import Step, StepwritGuard, current_step
from stepwrit.jws import SigningKey, split
from stepwrit.wire import (
    HEADER_OPERATION,
    TOKEN_TYPE_ID,
    AcceptRequest,
    CeilingSpec,
    IntentRequest,
    OpenStepRequest,
    PlanItem,
    RequestDetails,
)

AGENT, LEDGER, BANK = (f"spiffe://test.internal/{name}" for name in ("agent", "ledger", "bank"))
AUDIENCE = "https://bank.example"
BODY = b'{"cents":500}'
FAST = Retry(tries=3, first_s=0.001, most_s=0.001, budget_s=0.1)


class Faulty:
    """A transport that loses requests (before) or replies (after), as often as told, to one path."""

    def __init__(self, broker: FakeBroker, caller: str) -> None:
        self.inner = broker.transport(caller)
        self.before = 0
        self.after = 0
        self.path = "/v1/redeem"
        self.operations: list[str] = []
        self.findings: list[str | None] = []

    async def send(self, request: BrokerRequest) -> Response:
        if request.path != self.path:
            return await self.inner.send(request)
        self.operations.append(request.headers.get(HEADER_OPERATION, ""))
        self.findings.append(json.loads(request.body or b"{}").get("finding"))
        if self.before:
            self.before -= 1
            raise Lost("refused", sent=False)
        await asyncio.sleep(0)
        response = await self.inner.send(request)
        if self.after:
            self.after -= 1
            raise Lost("reset", sent=True)
        return response

    async def close(self) -> None:
        await self.inner.close()


def application(runs: list[Any]) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/transfers")
    async def transfer(request: Request, step: Annotated[Step, Depends(current_step)]) -> dict[str, Any]:
        body = await request.json()
        runs.append(step)
        assert request.state._state["stepwrit.step"] == step
        return {"got": body, "grant": step.grant_id, "origin": step.origin}

    @app.get("/v1/transfers")
    def listing(step: Annotated[Step, Depends(current_step)]) -> str:
        runs.append(step)
        return step.tool

    @app.get("/v1/stream")
    async def stream() -> StreamingResponse:
        runs.append("stream")

        async def parts() -> AsyncIterator[bytes]:
            for part in (b"one ", b"two ", current_step().tool.encode()):
                yield part

        return StreamingResponse(parts())

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    @app.websocket("/ws")
    async def socket() -> None:
        runs.append("socket")

    return app


def plan(*lines: tuple[str, str]) -> tuple[PlanItem, ...]:
    return tuple(
        PlanItem(at=AUDIENCE, method=method, path=path, query=("page",), times=50) for method, path in lines
    )


@dataclass(kw_only=True)
class Rig:
    """A guarded application, and a performer with an accepted step. counted: (code, signed by us)."""

    broker: FakeBroker = field(default_factory=FakeBroker)
    runs: list[Any] = field(default_factory=list)
    counted: list[tuple[str, bool]] = field(default_factory=list)
    key: SigningKey = field(default_factory=SigningKey.generate)
    step: str = ""
    ledger_id: str = LEDGER

    def __post_init__(self) -> None:
        registry = self.broker.registry
        registry.agents.add(AGENT)
        registry.servers["ledger"] = Server(name="ledger", spiffe_id=self.ledger_id)
        lines = plan(
            ("POST", "/v1/transfers"), ("GET", "/v1/transfers"), ("GET", "/v1/stream"), ("GET", "/ws")
        )
        registry.tools["ledger/transfer"] = Tool(name="ledger/transfer", plan=lines)
        registry.redeemers[AUDIENCE] = {BANK}
        self.agent = Broker(self.broker.transport(AGENT), AGENT)
        self.ledger = Broker(self.broker.transport(self.ledger_id), self.ledger_id, Parts(key=self.key))
        self.way = Faulty(self.broker, BANK)
        self.redeemer = Broker(self.way, BANK, Parts(retry=FAST))
        self.guard = self.guarded(application(self.runs))

    def guarded(self, app: Any, **changes: Any) -> StepwritGuard:
        count: Callable[[str, bool], None] = lambda code, signed: self.counted.append((code, signed))  # noqa: E731
        options = {
            "audience": AUDIENCE,
            "broker": self.redeemer,
            "on_refusal": count,
            "exempt": ("/healthz",),
        }
        return StepwritGuard(app, **(options | changes))

    async def accept_a_step(self) -> None:
        request = IntentRequest(
            purpose="pay", ceiling=CeilingSpec(tools=("ledger/*",)), exp=int(time.time()) + 600
        )
        person = Subject(token=self.broker.id_token(agent=AGENT), kind=TOKEN_TYPE_ID)
        intent = await self.agent.start_intent(person, request)
        opened = await self.agent.open(
            OpenStepRequest(parent=intent.step, server="ledger", tool="transfer", args={"amount": 5})
        )
        args = args_digest({"amount": 5})
        proof = make_step_proof(
            self.agent.key,
            token=opened.token,
            args=args,
            round=1,
            now=time.time(),
            jti=self.agent.random_id(),
        )
        await self.ledger.accept(opened.step, AcceptRequest(token=opened.token, proof=proof, args=args))
        self.step = opened.step

    async def credential(self, method: str = "POST", path: str = "/v1/transfers", body: bytes = BODY) -> str:
        details = RequestDetails(
            type="stepwrit_action", method=method, url=AUDIENCE + path, body=body_digest(body)
        )
        granted = await self.ledger.credential(step=self.step, resource=AUDIENCE, details=details)
        return granted.access_token

    def headers(self, token: str, method: str = "POST", path: str = "/v1/transfers") -> dict[str, str]:
        return {"Authorization": f"DPoP {token}", "DPoP": self.proof(token, method, path)}

    def proof(self, token: str, method: str = "POST", path: str = "/v1/transfers", **changes: Any) -> str:
        facts: dict[str, Any] = {"now": time.time(), "ath": token_hash(token), "key": self.key} | changes
        jti, key = self.ledger.random_id(), facts.pop("key")
        return make_proof(key, method, AUDIENCE + path, jti=jti, **facts)

    async def send(
        self,
        method: str = "POST",
        path: str = "/v1/transfers",
        *,
        headers: Any = None,
        content: Any = BODY,
        guard: Any = None,
    ) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=guard or self.guard)
        async with httpx2.AsyncClient(transport=transport, base_url=AUDIENCE) as client:
            return await client.request(method, path, headers=headers, content=content)

    async def call(
        self, headers: dict[str, str], receive: Any, path: str = "/v1/transfers", **scope: Any
    ) -> int:
        """The status of a POST straight into the guard, in this very task."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        whole = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
        await self.guard(whole | scope, receive, send)
        return int(sent[0]["status"])

    async def works(self) -> None:
        """The positive control: a fresh credential opens the door."""
        before = len(self.runs)
        reply = await self.send(headers=self.headers(await self.credential()))
        assert reply.status_code == 200, reply.text
        assert len(self.runs) == before + 1


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    await rig.accept_a_step()
    return rig


def refusal(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert body["status"] == reply.status_code
    told: dict[str, Any] = body["refusal"]
    return told


async def refused(
    rig: Rig, reply: httpx2.Response, status: int, code: str, *, signed: bool, by_guard: bool = True
) -> None:
    """It was counted; with our signature also recorded under the ref; and a fresh credential works."""
    told = refusal(reply)
    assert (reply.status_code, told["code"]) == (status, code), told
    assert rig.counted[-1] == (code, signed)
    if signed:
        entry = rig.broker.ledger.entries[-1]
        assert (entry.kind, entry.code, entry.caller) == ("refused", code, BANK)
        assert reply.headers["stepwrit-ref"] == told["ref"] == entry.ref
        assert rig.way.findings[-1] == (code if by_guard else None)
    else:
        assert "stepwrit-ref" not in reply.headers
    await rig.works()


# --- what passes


async def test_a_redeemed_request_reaches_the_application_with_its_body_and_its_step(rig: Rig) -> None:
    reply = await rig.send(headers=rig.headers(await rig.credential()))
    step = rig.runs[0]
    assert reply.json() == {"got": {"cents": 500}, "grant": step.grant_id, "origin": "model"}
    assert (step.tool, step.performer, step.step_id) == ("ledger/transfer", LEDGER, rig.step)
    assert step.requester == "person-alice"
    assert [hop.initiator for hop in step.chain] == [AGENT]
    assert rig.broker.ledger.of("redeemed")[0].grant == step.grant_id
    assert rig.counted == []


async def test_a_body_in_pieces_is_put_together_checked_and_played_again(rig: Rig) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(BODY), 3):
            yield BODY[at : at + 3]

    reply = await rig.send(headers=rig.headers(await rig.credential()), content=pieces())
    assert reply.json()["got"] == {"cents": 500}


async def test_a_query_is_part_of_the_request(rig: Rig) -> None:
    path = "/v1/transfers?page=2"
    token = await rig.credential("GET", path, b"")
    reply = await rig.send("GET", path, headers=rig.headers(token, "GET", path), content=b"")
    assert reply.json() == "ledger/transfer"


async def test_a_streamed_answer_passes_through_and_still_knows_its_step(rig: Rig) -> None:
    token = await rig.credential("GET", "/v1/stream", b"")
    reply = await rig.send("GET", "/v1/stream", headers=rig.headers(token, "GET", "/v1/stream"), content=b"")
    assert reply.text == "one two ledger/transfer"


async def test_an_exempt_path_needs_nothing_and_knows_no_step(rig: Rig) -> None:
    assert (await rig.send("GET", "/healthz", content=b"")).json() == "ok"
    with pytest.raises(ConfigurationError):
        current_step()


async def test_the_mount_comes_from_configuration(rig: Rig) -> None:
    outer = FastAPI()
    outer.mount("/bank", rig.guarded(application(rig.runs)))
    reply = await rig.send(
        path="/bank/v1/transfers", headers=rig.headers(await rig.credential()), guard=outer
    )
    assert reply.status_code == 200, reply.text


async def test_the_host_header_means_nothing(rig: Rig) -> None:
    headers = rig.headers(await rig.credential()) | {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
    }
    assert (await rig.send(headers=headers)).status_code == 200


# --- nothing, or something foreign


async def test_without_a_credential_the_challenge_names_the_scheme_and_the_metadata(rig: Rig) -> None:
    reply = await rig.send()
    challenge = f'DPoP algs="ES256", resource_metadata="{AUDIENCE}/.well-known/oauth-protected-resource"'
    assert reply.headers["www-authenticate"] == challenge
    await refused(rig, reply, 401, "no_step", signed=False)


async def test_a_foreign_token_is_counted_here_and_nowhere_else(rig: Rig) -> None:
    foreign = SigningKey.generate(kid="at-test").sign("at+jwt", {"iss": "https://evil.example"})
    reply = await rig.send(headers=rig.headers(foreign))
    assert reply.headers["www-authenticate"].startswith('DPoP error="invalid_token", algs="ES256", ')
    assert "refused" not in rig.broker.ledger.kinds()
    await refused(rig, reply, 401, "invalid_token", signed=False)


@pytest.mark.parametrize("token", ["x", "a.b.c", "é", "x" * 20_000])
async def test_rubbish_is_refused(rig: Rig, token: str) -> None:
    headers = [(b"authorization", b"DPoP " + token.encode()), (b"dpop", b"x")]
    reply = await rig.send(headers=headers)
    assert reply.status_code in (400, 401)
    await refused(rig, reply, reply.status_code, refusal(reply)["code"], signed=False)


async def test_two_authorization_headers_are_refused(rig: Rig) -> None:
    token = await rig.credential()
    headers = [*rig.headers(token).items(), ("Authorization", f"DPoP {token}")]
    await refused(rig, await rig.send(headers=headers), 400, "invalid_request", signed=False)


# --- ours, and wrong: each is reported


async def test_a_bound_credential_sent_as_bearer_is_refused(rig: Rig) -> None:
    token = await rig.credential()
    headers = rig.headers(token) | {"Authorization": f"Bearer {token}"}
    await refused(rig, await rig.send(headers=headers), 401, "invalid_token", signed=True)


async def test_a_credential_without_a_proof_is_refused(rig: Rig) -> None:
    headers = {"Authorization": f"DPoP {await rig.credential()}"}
    await refused(rig, await rig.send(headers=headers), 401, "invalid_proof", signed=True)


async def test_two_proofs_are_refused(rig: Rig) -> None:
    token = await rig.credential()
    headers = [*rig.headers(token).items(), ("DPoP", rig.proof(token))]
    await refused(rig, await rig.send(headers=headers), 401, "invalid_proof", signed=True)


async def test_a_proof_by_another_key_is_another_workloads(rig: Rig) -> None:
    token = await rig.credential()
    headers = {"Authorization": f"DPoP {token}", "DPoP": rig.proof(token, key=SigningKey.generate())}
    await refused(rig, await rig.send(headers=headers), 403, "wrong_workload", signed=True)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": "/v1/others"},
        {"now": time.time() - 600},
        {"now": time.time() + 86_400},
        {"ath": token_hash("another token")},
        {"ath": None},
    ],
    ids=["htm", "htu", "old", "future", "ath", "no ath"],
)
async def test_a_proof_of_something_else_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    token = await rig.credential()
    headers = {"Authorization": f"DPoP {token}", "DPoP": rig.proof(token, **change)}
    reply = await rig.send(headers=headers)
    assert 'error="invalid_dpop_proof"' in reply.headers["www-authenticate"]
    await refused(rig, reply, 401, "invalid_proof", signed=True)


async def test_a_credential_for_another_audience_is_refused(rig: Rig) -> None:
    guard = rig.guarded(application(rig.runs), audience="https://other.example", base_url=AUDIENCE)
    rig.broker.registry.redeemers["https://other.example"] = {BANK}
    reply = await rig.send(headers=rig.headers(await rig.credential()), guard=guard)
    await refused(rig, reply, 401, "invalid_token", signed=True)


async def test_an_expired_credential_is_refused_before_anybody_is_asked(rig: Rig) -> None:
    class Later:
        def now(self) -> float:
            return time.time() + 66

    guard = rig.guarded(application(rig.runs), clock=Later())
    token = await rig.credential()
    reply = await rig.send(headers=rig.headers(token), guard=guard)
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]
    await refused(rig, reply, 401, "expired", signed=True)


async def test_a_step_token_is_no_credential(rig: Rig) -> None:
    row = rig.broker.steps()[-1]
    token = rig.broker._token(row)
    reply = await rig.send(headers=rig.headers(token))
    await refused(rig, reply, 401, "invalid_token", signed=True)


async def test_a_credential_signed_with_a_step_tokens_key_is_refused(rig: Rig) -> None:
    claims = json.loads(split(await rig.credential()).claims_bytes)
    token = rig.broker.keys.step.sign("at+jwt", claims)
    await refused(rig, await rig.send(headers=rig.headers(token)), 401, "invalid_token", signed=True)


async def test_a_body_that_is_announced_too_long_is_not_even_read(rig: Rig) -> None:
    headers = rig.headers(await rig.credential()) | {"Content-Length": "1048577"}
    status = await rig.call(headers, unread)
    assert status == 413
    await rig.works()


async def test_after_a_request_there_is_no_step_any_more(rig: Rig) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY}

    assert await rig.call(rig.headers(await rig.credential()), receive) == 200
    with pytest.raises(ConfigurationError):
        current_step()


async def unread() -> dict[str, Any]:
    raise AssertionError("the body was read")


@pytest.mark.parametrize("content", [b'{"cents":50000}', b"", BODY + b" "])
async def test_a_changed_body_is_refused_and_spends_nothing(rig: Rig, content: bytes) -> None:
    token = await rig.credential()
    reply = await rig.send(headers=rig.headers(token), content=content)
    await refused(rig, reply, 403, "request_changed", signed=True)
    assert (await rig.send(headers=rig.headers(token))).status_code == 200


async def test_a_changed_method_or_url_is_refused_and_spends_nothing(rig: Rig) -> None:
    token = await rig.credential()
    for method, path in (("PUT", "/v1/transfers"), ("POST", "/v1/transfers?page=1"), ("POST", "/v1/stream")):
        reply = await rig.send(method, path, headers=rig.headers(token, method, path))
        await refused(rig, reply, 403, "request_changed", signed=True)
    assert (await rig.send(headers=rig.headers(token))).status_code == 200


@pytest.mark.parametrize("path", ["/v1/x/../transfers", "/v1/./transfers", "/v1/%2e%2e/v1/transfers"])
async def test_a_path_that_normalises_to_the_right_one_but_routes_elsewhere_is_refused(
    rig: Rig, path: str
) -> None:
    token = await rig.credential()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY}

    sent_path, raw = path.replace("%2e", "."), path.encode()
    assert await rig.call(rig.headers(token), receive, sent_path, raw_path=raw) == 400
    assert (rig.counted[-1], rig.way.findings[-1]) == (("invalid_request", True), "invalid_request")
    assert rig.runs == []
    await rig.works()


async def test_a_path_rewritten_behind_the_guards_back_is_refused(rig: Rig) -> None:
    async def rewriting(scope: Any, receive: Any, send: Any) -> None:
        await rig.guard({**scope, "path": "/v1/stream"}, receive, send)

    reply = await rig.send(headers=rig.headers(await rig.credential()), guard=rewriting)
    await refused(rig, reply, 400, "invalid_request", signed=True)


async def test_a_body_over_the_cap_is_refused_whether_announced_or_not(rig: Rig) -> None:
    guard = rig.guarded(application(rig.runs), body_max=len(BODY))
    assert (await rig.send(headers=rig.headers(await rig.credential()), guard=guard)).status_code == 200

    async def unannounced() -> AsyncIterator[bytes]:
        yield BODY
        yield b"x"

    for content in (BODY + b"x", unannounced()):
        reply = await rig.send(headers=rig.headers(await rig.credential()), content=content, guard=guard)
        await refused(rig, reply, 413, "invalid_request", signed=True)


# --- the broker's word


async def test_a_second_use_with_a_fresh_proof_is_the_brokers_replay(rig: Rig) -> None:
    token = await rig.credential()
    assert (await rig.send(headers=rig.headers(token))).status_code == 200
    await refused(rig, await rig.send(headers=rig.headers(token)), 403, "replay", signed=True, by_guard=False)
    assert rig.broker.ledger.reasons() == ["replay"]


async def test_a_second_use_of_a_proof_is_the_guards_replay(rig: Rig) -> None:
    headers = rig.headers(await rig.credential())
    assert (await rig.send(headers=headers)).status_code == 200
    redeems = len(rig.way.operations)
    reply = await rig.send(headers=headers)
    assert len(rig.way.operations) == redeems + 1  # the report
    await refused(rig, reply, 403, "replay", signed=True)


async def test_twenty_identical_requests_at_once_run_the_application_once(rig: Rig) -> None:
    headers = rig.headers(await rig.credential())
    replies = await asyncio.gather(*(rig.send(headers=headers) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] + [403] * 19
    assert len(rig.runs) == 1
    assert rig.broker.ledger.kinds().count("redeemed") == 1


async def test_twenty_requests_with_proofs_of_their_own_run_the_application_once(rig: Rig) -> None:
    token = await rig.credential()
    replies = await asyncio.gather(*(rig.send(headers=rig.headers(token)) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] + [403] * 19
    assert len(rig.runs) == 1


async def test_a_closed_step_opens_nothing(rig: Rig) -> None:
    token = await rig.credential()
    await rig.works()
    await rig.ledger.close_step(rig.step, "done")
    reply = await rig.send(headers=rig.headers(token))
    assert (reply.status_code, refusal(reply)["code"]) == (403, "closed")
    assert reply.headers["stepwrit-ref"] == rig.broker.ledger.entries[-1].ref
    assert len(rig.runs) == 1


async def test_a_guard_that_is_not_the_audiences_workload_gets_no_go_ahead(rig: Rig) -> None:
    await rig.works()
    rig.broker.registry.redeemers[AUDIENCE] = {"spiffe://test.internal/another"}
    rig.broker.registry.operators.add(BANK)
    reply = await rig.send(headers=rig.headers(await rig.credential()))
    assert (reply.status_code, refusal(reply)["code"]) == (403, "wrong_workload")
    assert len(rig.runs) == 1


# --- lost on the way


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 1), (0, 2)])
async def test_a_lost_message_is_repeated_under_one_operation_id_and_runs_the_application_once(
    rig: Rig, before: int, after: int
) -> None:
    rig.way.before, rig.way.after = before, after
    reply = await rig.send(headers=rig.headers(await rig.credential()))
    assert reply.status_code == 200, reply.text
    assert len(rig.way.operations) == before + after + 1
    assert len(set(rig.way.operations)) == 1
    assert len(rig.runs) == 1
    assert rig.broker.ledger.kinds().count("redeemed") == 1
    assert rig.broker.ledger.reasons() == []


async def test_each_inbound_request_has_an_operation_id_of_its_own_whatever_it_sends(rig: Rig) -> None:
    for _ in range(2):
        headers = rig.headers(await rig.credential()) | {HEADER_OPERATION: "chosen-by-the-sender"}
        assert (await rig.send(headers=headers)).status_code == 200
    assert len(set(rig.way.operations)) == 2
    assert "chosen-by-the-sender" not in rig.way.operations


@pytest.mark.parametrize(("before", "after"), [(99, 0), (0, 99)])
async def test_an_unreachable_broker_is_a_typed_503_and_the_application_does_not_run(
    rig: Rig, before: int, after: int
) -> None:
    rig.way.before, rig.way.after = before, after
    reply = await rig.send(headers=rig.headers(await rig.credential()))
    told = refusal(reply)
    assert (reply.status_code, told["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"] == "1"
    assert rig.runs == []
    rig.way.before = rig.way.after = 0
    await rig.works()


async def test_without_the_issuers_keys_nothing_passes(rig: Rig) -> None:
    rig.way.path, rig.way.before = "/oauth/jwks", 99
    token = await rig.credential()
    reply = await rig.send(headers=rig.headers(token))
    assert (reply.status_code, refusal(reply)["code"]) == (503, "unavailable")
    assert rig.runs == []
    rig.way.before = 0
    assert (await rig.send(headers=rig.headers(token))).status_code == 200


async def test_a_hanging_broker_is_given_up_within_the_budget(rig: Rig) -> None:
    await rig.redeemer.keys()

    class Hanging:
        issuer = rig.broker.issuer
        trust_domain = rig.redeemer.trust_domain
        keys = rig.redeemer.keys

        async def redeem(self, request: Any) -> Any:
            await asyncio.Event().wait()

    guard = rig.guarded(application(rig.runs), broker=Hanging(), budget_s=0.01)
    reply = await rig.send(headers=rig.headers(await rig.credential()), guard=guard)
    assert (reply.status_code, refusal(reply)["code"]) == (503, "unavailable")
    await rig.works()


async def test_an_answer_about_another_credential_is_no_go_ahead(rig: Rig) -> None:
    await rig.redeemer.keys()

    class Confused:
        issuer = rig.broker.issuer
        trust_domain = rig.redeemer.trust_domain
        keys = rig.redeemer.keys

        async def redeem(self, request: Any) -> Any:
            from dataclasses import replace

            return replace(await rig.redeemer.redeem(request), grant="grt_another")

    guard = rig.guarded(application(rig.runs), broker=Confused())
    reply = await rig.send(headers=rig.headers(await rig.credential()), guard=guard)
    assert (reply.status_code, refusal(reply)["code"]) == (503, "unavailable")
    assert rig.runs == []
    await rig.works()


async def test_a_no_stands_when_it_cannot_be_reported(rig: Rig) -> None:
    await rig.works()
    rig.way.before = 99
    reply = await rig.send(headers=rig.headers(await rig.credential()), content=b"changed")
    assert (reply.status_code, refusal(reply)["code"]) == (403, "request_changed")
    assert "stepwrit-ref" not in reply.headers


async def test_a_performer_of_another_domain_is_refused_until_the_resource_names_it(rig: Rig) -> None:
    await rig.works()
    guest = Rig(ledger_id="spiffe://partner.test/mcp/ledger")
    await guest.accept_a_step()
    reply = await guest.send(headers=guest.headers(await guest.credential()))
    assert (reply.status_code, refusal(reply)["code"]) == (403, "wrong_workload")
    assert guest.counted == [("wrong_workload", True)]
    assert guest.runs == []
    for names in ("partner.test", ["third.test", "partner.test"]):
        naming = guest.guarded(application(guest.runs), trust_domains=names)
        reply = await guest.send(headers=guest.headers(await guest.credential()), guard=naming)
        assert reply.status_code == 200
    with pytest.raises(ConfigurationError, match="trust_domains"):
        rig.guarded(application(rig.runs), trust_domains=["Partner"])


# --- the rest of ASGI


async def test_websockets_are_refused_before_the_application_sees_them(rig: Rig) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    token = await rig.credential("GET", "/ws", b"")
    headers = [(k.lower().encode(), v.encode()) for k, v in rig.headers(token, "GET", "/ws").items()]
    await rig.guard({"type": "websocket", "path": "/ws", "headers": headers}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert rig.runs == []
    assert rig.counted == [("not_yet_supported", False)]


async def test_a_client_that_leaves_in_the_middle_of_its_body_runs_nothing(rig: Rig) -> None:
    headers = [(k.lower().encode(), v.encode()) for k, v in rig.headers(await rig.credential()).items()]
    messages = [
        {"type": "http.request", "body": BODY[:5], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/transfers", "headers": headers}
    await rig.guard(scope, receive, send)
    assert (rig.runs, rig.counted) == ([], [])
    await rig.works()


async def test_the_lifespan_reaches_the_application() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    rig = Rig()
    await rig.guarded(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# --- metadata (RFC 9728)


async def test_the_metadata_names_resource_issuer_and_proof_of_possession(rig: Rig) -> None:
    reply = await rig.send("GET", "/.well-known/oauth-protected-resource", content=b"")
    assert reply.json() == {
        "resource": AUDIENCE,
        "authorization_servers": [rig.broker.issuer],
        "bearer_methods_supported": [],
        "dpop_bound_access_tokens_required": True,
        "dpop_signing_alg_values_supported": ["ES256"],
        "authorization_details_types_supported": ["stepwrit_action"],
    }
    assert (await rig.send("POST", "/.well-known/oauth-protected-resource")).status_code == 405


async def test_the_metadata_of_an_audience_with_a_path_is_between_host_and_path(rig: Rig) -> None:
    guard = rig.guarded(application(rig.runs), audience="https://bank.example/api")
    path = "/.well-known/oauth-protected-resource/api"
    assert (await rig.send("GET", path, content=b"", guard=guard)).json()[
        "resource"
    ] == "https://bank.example/api"
    challenge = (await rig.send(guard=guard)).headers["www-authenticate"]
    assert challenge.endswith(f'resource_metadata="{AUDIENCE}{path}"')


@pytest.mark.parametrize(
    ("audience", "path"),
    [
        ("https://bank.example/", "/.well-known/oauth-protected-resource"),
        ("https://bank.example/api/", "/.well-known/oauth-protected-resource/api/"),
    ],
)
async def test_only_the_slash_after_the_host_is_left_out_of_the_metadatas_path(
    rig: Rig, audience: str, path: str
) -> None:
    """RFC 9728 section 3.1; `resource` is the audience to the letter, or clients must not use it."""
    guard = rig.guarded(application(rig.runs), audience=audience)
    assert (await rig.send("GET", path, content=b"", guard=guard)).json()["resource"] == audience
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    assert (await rig.send("GET", other, content=b"", guard=guard)).status_code == 401


@pytest.mark.parametrize(
    "audience", ["bank", "https://bank.example/?x=1", "https://u@bank.example", "ftp://x"]
)
def test_an_audience_that_is_no_plain_url_is_a_configuration_error(audience: str) -> None:
    rig = Rig()
    rig.guarded(application([]))
    with pytest.raises(ConfigurationError, match="audience"):
        rig.guarded(application([]), audience=audience)


async def test_secrets_are_in_no_repr_and_no_refusal(rig: Rig) -> None:
    token = await rig.credential()
    reply = await rig.send(headers=rig.headers(token), content=b"changed")
    for part in token.split("."):
        assert part not in reply.text
        assert part not in repr(rig.broker.ledger.entries)

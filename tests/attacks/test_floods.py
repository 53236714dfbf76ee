"""Too much, too often, too big, too deep: refused cheaply, on record within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tests.fakes.bearer import Bearer
from tests.fakes.pki import FakeCa, raw_client
from tests.fakes.stage import LIMITS, Actor, Opened, Reply, Stage, new, redeemed, refused, spiffe

from stepwrit._tls import client_context
from stepwrit.flow import Lost
from stepwrit.wire import BODY_MAX_BYTES, HEADER_DPOP, HEADER_OPERATION

TIGHT = """\
version: 1
rates:
  - {name: credentials, on: credentials, per: [workload], rate: 60/min, burst: 3}
  - {name: steps-of-servers, "on": steps, per: [requester], match: {origin: server}, rate: 60/min, burst: 2}
  - {name: steps, on: steps, per: [requester, origin], rate: 6000/min, burst: 500}
  - {name: intents, on: intents, per: [workload], rate: 6000/min, burst: 500}
concurrency:
  - {name: outstanding, per: [workload], max: 100}
transaction: {steps: 200, depth: 8, fan_out: 60, server_steps: 20}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
count: 4
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tight_stage() -> AsyncGenerator[Stage]:
    async with Stage(limits=TIGHT) as stage:
        yield stage


@pytest.fixture
def tight(tight_stage: Stage) -> Stage:
    tight_stage.forget_refusals()
    tight_stage.pass_time(10)  # every bucket is full again
    return tight_stage


async def accepted(stage: Stage, count: int) -> tuple[list[Opened], Actor]:
    return [await stage.accepted() for _ in range(count)], await stage.actor("mcp-server/ledger")


# --- limits


async def test_over_the_rate_is_refused_with_a_time_and_costs_nothing(tight: Stage) -> None:
    steps, ledger = await accepted(tight, 4)
    for opened in steps[:3]:
        (await ledger.credential(opened.step)).ok()
    proof, op = ledger.proof("/oauth/token"), new()
    told = await ledger.credential(steps[3].step, op=op, proof=proof)
    refused(tight, told, "limit")
    assert told.status == 429
    assert 0 < told.refusal["retry_after"] <= 1
    assert int(told.headers["retry-after"]) >= told.refusal["retry_after"]
    assert not tight.happened(steps[3].txn, "grant.issued")
    tight.pass_time(told.refusal["retry_after"])
    (await ledger.credential(steps[3].step, op=op, proof=proof)).ok()  # nothing was used up


async def test_at_once_as_many_as_the_burst_and_no_more(tight: Stage) -> None:
    steps, ledger = await accepted(tight, 12)
    replies = await asyncio.gather(*(ledger.credential(each.step) for each in steps))
    assert sorted(reply.status for reply in replies) == [200] * 3 + [429] * 9


async def test_refused_tries_leave_the_bucket_full(tight: Stage) -> None:
    steps, ledger = await accepted(tight, 3)
    for _ in range(10):
        refused(tight, await ledger.credential(steps[0].step, method="DELETE"), "plan")
    for opened in steps:
        (await ledger.credential(opened.step)).ok()


async def test_what_servers_start_does_not_empty_the_persons_bucket(tight: Stage) -> None:
    held = await tight.held()
    for _ in range(2):
        (await held.ledger.open_reply(held.step, "audit/record")).ok()
    refused(tight, await held.ledger.open_reply(held.step, "audit/record"), "limit")
    await tight.opened()  # the same person, by the model


async def test_outstanding_credentials_are_bounded_and_a_use_makes_room() -> None:
    limits = LIMITS.replace("max: 10000", "max: 2")
    async with Stage(limits=limits) as stage:
        first, second, third = await stage.held(), await stage.held(), await stage.accepted()
        told = await first.ledger.credential(third.step)
        refused(stage, told, "limit")
        assert told.status == 429
        (await first.redeem()).ok()
        (await first.ledger.credential(third.step)).ok()
        (await second.redeem()).ok()


# --- refusals


async def many(count: int, deed: Callable[[], Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """So many tries by one caller, ten at a time."""
    batches = [await asyncio.gather(*(deed() for _ in range(10))) for _ in range(count // 10)]
    return [reply for batch in batches for reply in batch]


async def test_a_flood_of_refusals_is_counted_and_issuance_goes_on(stage: Stage) -> None:
    opened, mallory = await stage.accepted(), await stage.actor("mcp-server/mallory")
    before = int(str(stage.broker.ledger.head()["size"])) - 1
    replies = await many(150, lambda: mallory.credential(opened.step))
    assert {reply.status for reply in replies} <= {400, 403}
    assert len({reply.refusal["ref"] for reply in replies}) == 150
    await stage.broker.housed.refusals.flush(stage.now())
    told = stage.broker.ledger.tail(before, 1000, ["refused", "refused.counted"], None)
    single = [entry for entry in told if entry.kind == "refused"]
    counts = [entry.facts["counted"] for entry in told if entry.kind == "refused.counted" and entry.facts]
    assert len(single) == 60
    assert [sum(each.values()) for each in counts if isinstance(each, dict)] == [90]
    ledger = await stage.actor("mcp-server/ledger")
    got = (await ledger.credential(opened.step)).ok()
    (await (await stage.actor("resource/bank/1")).redeem(got["access_token"], ledger)).ok()
    assert redeemed(stage, opened.txn) == 1


async def test_one_callers_flood_does_not_hide_anothers_refusal(stage: Stage) -> None:
    opened, mallory = await stage.accepted(), await stage.actor("mcp-server/mallory")
    await many(70, lambda: mallory.credential(opened.step))
    audit = await stage.actor("mcp-server/audit")
    refused(stage, await audit.credential(opened.step), "not_found", "wrong_workload")


async def test_strangers_do_not_fill_the_log_either(stage: Stage) -> None:
    """The listener for bearers is open to everybody who reaches it."""
    count, lone = 40, Bearer(stage=stage, path="agent/nobody")
    sent = {"content-type": "application/json", HEADER_OPERATION: new()}
    before = _strangers(stage)
    with capture_logs() as lines:
        for _ in range(count):
            assert (await lone.post("/v1/steps", b"{}", sent)).status == 401
        assert (await lone.post("/v1/steps", b"{}", {**sent, "authorization": "?"})).status == 400
    said = [(line["code"], line["rule"]) for line in lines if line["event"] == "refused"]
    assert set(said) == {("unattested", "jwt:no_assertion"), ("invalid_request", None)}
    assert len(said) < count / 2
    assert _strangers(stage) == before + count, "each is counted nevertheless"


def _strangers(stage: Stage) -> float:
    labels = {"rule": "jwt:no_assertion"}
    return stage.broker.metrics.registry.get_sample_value("stepwrit_unattested_total", labels) or 0.0


async def test_unattested_tries_are_counted_in_metrics_and_leave_no_entry(stage: Stage) -> None:
    ca = FakeCa(stage.domain, now=time.time())
    ca.key, ca.name = stage.trust.ca._key, stage.trust.ca._certificate.subject
    before = stage.broker.ledger.head()["size"]
    context = raw_client(ca.issue(spiffe("agent/nobody")))
    async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
        for _ in range(20):
            assert (await http.post(f"{stage.url}/v1/steps", content=b"{}")).status_code == 401
    assert stage.broker.ledger.head()["size"] == before
    assert b'stepwrit_unattested_total{rule="registry"} ' in stage.broker.metrics.text()


# --- bombs


def body(root: str, **changes: Any) -> bytes:
    return json.dumps(
        {"v": 1, "parent": root, "server": "ledger", "tool": "note", "args": {}} | changes
    ).encode()


def args(raw: bytes) -> Callable[[str], bytes]:
    """A request whose arguments are these very bytes."""
    return lambda root: body(root).replace(b'"args": {}', b'"args": {"x":' + raw + b"}")


def wide(root: str) -> bytes:
    return body(root, ceiling={"tools": [f"ledger/t{n}" for n in range(10_000)], "impact": "low"})


BOMBS: dict[str, Callable[[str], bytes]] = {
    "a body beyond the bound": lambda root: body(root, args={"x": "y" * BODY_MAX_BYTES}),
    "arrays in arrays": args(b"[" * 50_000 + b"]" * 50_000),
    "objects in objects": args(b'{"x":' * 20_000 + b"1" + b"}" * 20_000),
    "65 deep": args(b"[" * 65 + b"]" * 65),
    "unclosed": lambda _: b"[" * 200_000,
    "a number of 200,000 digits": args(b"9" * 200_000),
    "a long exponent": args(b"1e" + b"9" * 10_000),
    "a long parent": lambda _: body("stp_" + "0" * 100_000),
    "a long server": lambda root: body(root, server="x" * 100_000),
    "a long tool": lambda root: body(root, tool="x" * 100_000),
    "many ceilings": wide,
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
}


async def test_a_large_body_within_the_bound_is_read_however_it_arrives(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    for size in (60_000, 70_000, 130_000, 250_000):
        (await chat.post("/v1/steps", body(root["step"], args={"x": "y" * size}))).ok()


@pytest.mark.parametrize("which", BOMBS)
async def test_a_bomb_of_a_body_is_a_plain_no(stage: Stage, which: str) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    told = await chat.post("/v1/steps", BOMBS[which](root["step"]))
    assert told.status in (400, 403, 404), told.raw
    assert told.code in ("invalid_request", "invalid_arguments", "not_registered", "ceiling", "not_found")
    assert len(told.raw) < 2_000
    (await chat.post("/v1/steps", body(root["step"]))).ok()


async def test_a_form_with_a_thousand_fields_is_a_plain_no(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    raw = "&".join(f"f{n}=1" for n in range(1000)).encode()
    kind = "application/x-www-form-urlencoded"
    refused(stage, await ledger.post("/oauth/token", raw, kind), "invalid_request")
    refused(stage, await ledger.post("/oauth/token", b"grant_type=a&grant_type=a", kind), "invalid_request")
    refused(stage, await ledger.post("/oauth/token", b"\xff=%ff", kind), "invalid_request")
    refused(stage, await ledger.post("/oauth/token", b"grant_type=a", "application/json"), "invalid_request")


@pytest.mark.parametrize("name", [HEADER_DPOP, HEADER_OPERATION, "X-Anything"])
async def test_a_head_that_is_too_large_is_refused(stage: Stage, name: str) -> None:
    chat = await stage.actor("agent/chat")
    with contextlib.suppress(Lost):  # the connection may end before the answer is read
        assert (await chat.send("POST", "/v1/steps", b"{}", {name: "x" * 70_000})).status in (400, 431)
    (await chat.open_reply((await stage.root())["step"])).ok()


async def test_a_head_that_never_ends_keeps_no_connection(stage: Stage) -> None:
    tls = client_context(await stage.identity("agent/chat"), lambda _: True)
    host, port = stage.broker.mtls.address
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.write(b"POST /v1/steps HTTP/1.1\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while sent < 2_000_000 and not reader.at_eof():
            writer.write(b"X: " + b"y" * 1000 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
            sent += 1005
        await reader.read()  # ends when the broker does
    assert sent < 2_000_000
    writer.close()


@pytest.mark.parametrize("path", ["agent/chat", "operator/ops"])
async def test_nobody_makes_the_admin_face_hold_a_huge_body(stage: Stage, path: str) -> None:
    """The quiet routes read a body before they ask who sends it."""
    by, read, size = await stage.actor(path), 0, 40_000_000
    tls = client_context(await stage.identity(path), lambda _: True)

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal read
        yield b'{"text":"'
        while read < size:
            read += 65_536
            yield b"x" * 65_536
        yield b'","surprise":1}'

    async with httpx2.AsyncClient(verify=tls, trust_env=False, timeout=20) as http:
        headers = {"Content-Type": "application/json", HEADER_OPERATION: new()}
        url = f"{stage.url}/v1/admin/registry/apply"
        with contextlib.suppress(httpx2.TransportError):  # the connection may end first
            answer = await http.post(url, content=endless(), headers=headers)
            assert answer.status_code == 400
            assert "error parsing the body" in answer.text  # it never came to its members
    assert by.id  # still there
    (await (await stage.actor("agent/chat")).open_reply((await stage.root())["step"])).ok()


async def test_an_idempotency_key_has_its_bounds(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    for op in ("short", "x" * 129, "with a space in the midst of it"):
        refused(stage, await chat.post("/v1/steps", body(root["step"]), op=op), "invalid_request")
    (await chat.post("/v1/steps", body(root["step"]))).ok()


async def test_connections_that_say_nothing_do_not_stop_the_others(stage: Stage) -> None:
    host, port = stage.broker.mtls.address
    idle = [socket.create_connection((host, port)) for _ in range(50)]
    try:
        (await (await stage.held()).redeem()).ok()
    finally:
        for each in idle:
            each.close()

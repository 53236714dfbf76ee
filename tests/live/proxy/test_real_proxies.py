"""The broker behind HAProxy and behind nginx: everybody stays who they are, whatever they send."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.edge.certificates import sequence, xfcc
from tests.fakes.hop import Hop, Sent, authority
from tests.fakes.pki import FakeCa
from tests.fakes.stage import Actor, Stage, refused
from tests.live.proxy.real import ID, Running, listening, start
from uvicorn.server import ServerState

from stepwrit._transport import HttpTransport
from stepwrit.flow import Request

LIMIT = 250_000  # bytes of arguments: more than a proxy buffers, less than the broker takes


def opening(parent: str, **args: Any) -> dict[str, Any]:
    return {"v": 1, "parent": parent, "server": "ledger", "tool": "note", "args": args}


def claims(leaf: bytes) -> Sent:
    """All that a client could say of a certificate that is not its own."""
    return [
        ("Client-Cert", sequence(leaf)),
        ("client-cert", sequence(leaf)),
        ("Client_Cert", sequence(leaf)),
        ("Client-Cert-Chain", b"nothing that could be read"),
        ("X-Forwarded-Client-Cert", xfcc(leaf)),
        ("X-FORWARDED-CLIENT-CERT", xfcc(leaf)),
    ]


def through(stage: Stage, running: Running, actor: Actor, **shape: Any) -> Hop:
    return Hop(stage, authority(stage).issue(actor.id, **shape), running.address)


def ignored(stage: Stage) -> float:
    names = ("client-cert", "client-cert-chain", "x-forwarded-client-cert")
    found = [
        stage.broker.metrics.registry.get_sample_value(
            "stepwrit_forwarded_ignored_total", {"listener": "mtls", "header": name}
        )
        for name in names
    ]
    return sum(each or 0 for each in found)


async def test_a_credential_is_asked_for_given_and_spent_through_the_proxy(stage: Stage) -> None:
    held = await stage.held()
    (await held.redeem()).ok()
    assert (await held.redeem()).status >= 400


async def test_the_ledger_says_by_which_proxy_a_refused_caller_came(stage: Stage) -> None:
    chat, other = await stage.actors("agent/chat", "agent/other")
    root = await chat.intent()
    (await chat.json("/v1/steps", opening(root["step"]))).ok()
    noted = refused(
        stage, await other.json("/v1/steps", opening(root["step"])), "not_found", "wrong_workload"
    )
    assert noted.facts is not None
    assert (noted.facts["caller"], noted.facts["via"]) == (other.id, ID)


async def test_what_a_client_says_of_certificates_never_arrives(stage: Stage, running: Running) -> None:
    chat, other = await stage.actors("agent/chat", "agent/other")
    root, leaf = await chat.intent(), authority(stage).issue(chat.id).leaf
    async with through(stage, running, chat) as honest, through(stage, running, other) as liar:
        (await honest.post(chat, "/v1/steps", opening(root["step"]))).ok()
        (await honest.post(chat, "/v1/steps", opening(root["step"]), claims(leaf))).ok()
        told = await liar.post(other, "/v1/steps", opening(root["step"]), claims(leaf))
        noted = refused(stage, told, "not_found", "wrong_workload")
    assert noted.facts is not None
    assert noted.facts["caller"] == other.id
    assert ignored(stage) == 0


async def test_clients_on_shared_connections_are_never_mixed_up(stage: Stage, running: Running) -> None:
    chat, other = await stage.actors("agent/chat", "agent/other")
    roots = {each.path: (await each.intent())["step"] for each in (chat, other)}

    async def twenty(me: Actor, them: Actor) -> None:
        async with through(stage, running, me) as mine:
            for _ in range(20):
                (await mine.post(me, "/v1/steps", opening(roots[me.path]))).ok()
                told = await mine.post(me, "/v1/steps", opening(roots[them.path]))
                assert told.code in ("not_found", "wrong_workload"), told.raw

    await asyncio.gather(*(twenty(*pair) for pair in [(chat, other), (other, chat)] * 3))


async def test_clients_take_turns_on_few_connections_to_the_broker(
    stage: Stage, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, other = await stage.actors("agent/chat", "agent/other")
    roots = {each.path: (await each.intent())["step"] for each in (chat, other)}
    made = counting(stage, monkeypatch)
    async with through(stage, running, chat) as mine, through(stage, running, other) as theirs:
        for _ in range(20):
            (await mine.post(chat, "/v1/steps", opening(roots[chat.path]))).ok()
            (await theirs.post(other, "/v1/steps", opening(roots[other.path]))).ok()
    assert len(made) < 10


def counting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one with each connection that the broker accepts."""
    server, made = stage.broker.mtls._server, []
    assert server is not None
    connect = server._connect

    def counted(state: ServerState) -> asyncio.Protocol:
        made.append(state)
        return connect(state)

    monkeypatch.setattr(server, "_connect", counted)
    return made


async def test_a_large_request_leaves_room_for_a_large_certificate(stage: Stage, running: Running) -> None:
    chat = await stage.actor("agent/chat")
    root, names = await chat.intent(), tuple(f"name-{at}.some.long.domain.example" for at in range(60))
    async with through(stage, running, chat, key="rsa", dns=names) as mine:
        for size in (1_000, 13_000, 15_000, 16_300, 33_000, 65_500, LIMIT):
            (await mine.post(chat, "/v1/steps", opening(root["step"], text="x" * size))).ok()


async def test_without_a_certificate_of_the_trust_domain_nothing_gets_through(
    stage: Stage, running: Running
) -> None:
    chat = await stage.actor("agent/chat")
    root = await chat.intent()
    async with through(stage, running, chat) as good:
        (await good.post(chat, "/v1/steps", opening(root["step"]))).ok()
    stranger = FakeCa(stage.domain, now=time.time()).issue(chat.id)
    opened = len(stage.happened(root["txn"], "step.opened"))
    try:
        async with Hop(stage, stranger, running.address) as bad:
            told = await bad.post(chat, "/v1/steps", opening(root["step"]))
            assert told.status == 400  # nginx says it in HTTP
    except (OSError, asyncio.IncompleteReadError):
        pass  # HAProxy ends the handshake
    assert len(stage.happened(root["txn"], "step.opened")) == opened


async def test_operators_go_around_the_proxy(stage: Stage) -> None:
    ops = await stage.actor("operator/ops")
    told = await ops.send("GET", "/v1/admin/marks", b"", {})
    assert (told.status, told.refusal["rule"]) == (401, "proxy")
    direct = HttpTransport(stage.broker.mtls.url, await stage.identity(ops.path), stage.broker_id)
    try:
        answer = await direct.send(Request(method="GET", path="/v1/admin/marks", headers={}, body=b""))
        assert answer.status == 200
    finally:
        await direct.close()


async def test_a_client_whose_certificate_ends_soon_is_told_to_reconnect(
    stage: Stage, running: Running
) -> None:
    if running.kind == "nginx":
        return  # it bounds the life of a connection instead: keepalive_time
    chat = await stage.actor("agent/chat")
    root = await chat.intent()
    for life, said in ((600, None), (35, None), (20, "close")):
        async with through(stage, running, chat, ends=life) as mine:
            reply = await mine.post(chat, "/v1/steps", opening(root["step"]))
            assert (reply.ok()["txn"], reply.headers.get("connection")) == (root["txn"], said)


async def test_the_proxy_talks_to_nobody_but_the_broker(stage: Stage, running: Running) -> None:
    """Every workload of the domain has a certificate; only the broker's has its name."""
    chat = await stage.actor("agent/chat")
    root = await chat.intent()
    async with through(stage, running, chat) as good:
        (await good.post(chat, "/v1/steps", opening(root["step"]))).ok()
    wary = start(running.kind, stage, listening(), name="other.internal")
    try:
        async with through(stage, wary, chat) as bad:
            assert (await bad.post(chat, "/v1/steps", opening(root["step"]))).status in (502, 503)
    finally:
        wary.stop()


@pytest.mark.parametrize("svid", ["agent/chat", "edge/nobody"])
async def test_another_workload_in_the_proxys_place_speaks_for_nobody(
    stage: Stage, running: Running, svid: str
) -> None:
    other = await stage.actor("agent/other")
    root = await other.intent()
    async with through(stage, running, other) as good:
        (await good.post(other, "/v1/steps", opening(root["step"]))).ok()
    liar = start(running.kind, stage, listening(), svid=f"spiffe://{stage.domain}/{svid}")
    before = ignored(stage)
    try:
        async with through(stage, liar, other) as bad:
            told = await bad.post(other, "/v1/steps", opening(root["step"]))
            assert told.code in ("unattested", "not_found", "wrong_workload"), told.raw
    finally:
        liar.stop()
    assert ignored(stage) == before + 1

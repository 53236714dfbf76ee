"""Behind a proxy that ends TLS: who may say who is calling, and what a lie in a header is worth."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import yaml
from tests.edge.certificates import sequence, xfcc
from tests.fakes.bearer import Bearer
from tests.fakes.hop import Hop, Sent, authority
from tests.fakes.pki import FakeCa, Issued
from tests.fakes.stage import ENTRIES, Actor, Reply, Stage, accept_body, new, refused, spiffe

from stepwrit.wire import HEADER_DPOP, HEADER_OPERATION
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.workload import Proxy, SpiffeId

PROXY, PARTNER = SpiffeId(spiffe("edge/proxy")), "partner.test"
THEIRS: dict[str, Any] = {
    "id": f"spiffe://{PARTNER}/agent",
    "role": "agent",
    "name": "theirs",
    "may_start": {"tools": ["ledger/*"], "impact": "low"},
}
EDGE: dict[str, Any] = {**THEIRS, "id": PROXY, "name": "edge"}
LONE: dict[str, Any] = {
    "id": "agent/lone",
    "role": "agent",
    "name": "lone",
    "attest": ["jwt"],
    "may_start": {"tools": ["ledger/*"], "impact": "low"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    proxy = Proxy(id=PROXY, source="client-cert")
    async with Stage(entries=[*ENTRIES, THEIRS, LONE], foreign=(PARTNER,), proxy=proxy) as running:
        yield running


def forwarded(issued: Issued) -> Sent:
    return [("Client-Cert", sequence(issued.leaf))]


def of(actor: Actor) -> Sent:
    """What an honest proxy says of this client."""
    return forwarded(authority(actor.stage).issue(actor.id))


def hop(stage: Stage) -> Hop:
    return Hop(stage, authority(stage).issue(PROXY))


def opening(parent: str, tool: str = "note") -> dict[str, Any]:
    return {"v": 1, "parent": parent, "server": "ledger", "tool": tool, "args": {}}


def nobody(reply: Reply | httpx2.Response) -> str:
    """The rule by which the caller is nobody."""
    body = reply.body if isinstance(reply, Reply) else reply.json()
    status = reply.status if isinstance(reply, Reply) else reply.status_code
    assert (status, body["refusal"]["code"]) == (401, "unattested"), body
    return str(body["refusal"]["rule"])


def counted(stage: Stage, listener: str, header: str = "client-cert") -> float:
    labels = {"listener": listener, "header": header}
    return stage.broker.metrics.registry.get_sample_value("stepwrit_forwarded_ignored_total", labels) or 0.0


async def as_other(stage: Stage, actor: Actor, path: str, members: dict[str, Any], sent: Sent) -> Reply:
    """The actor's own connection, with a claim in its headers."""
    async with Hop(stage, authority(stage).issue(actor.id)) as own:
        return await own.post(actor, path, members, sent)


# --- the right way


async def test_a_whole_call_goes_through_the_proxy_and_everybody_stays_who_they_are(stage: Stage) -> None:
    chat, ledger, bank = await stage.actors("agent/chat", "mcp-server/ledger", "resource/bank/1")
    root = await chat.intent()
    async with hop(stage) as proxy:
        asked = opening(root["step"], "transfer")
        body = (await proxy.post(chat, "/v1/steps", asked, of(chat))).ok()
        (entry,) = stage.happened(root["txn"], "step.opened")
        assert entry.facts is not None
        accepted = await proxy.post(
            ledger, f"/v1/steps/{body['step']}/accept", _accepting(body, chat), of(ledger)
        )
        assert accepted.ok()["step"] == body["step"]
        assert (
            nobody(await proxy.post(bank, f"/v1/steps/{body['step']}/wait", {"v": 1}))
            == "proxy:no_certificate"
        )
        told = await proxy.post(bank, f"/v1/steps/{body['step']}/wait", {"v": 1}, of(bank))
        noted = refused(stage, told, "not_found", "wrong_workload", "invalid_request")
        assert noted.facts is not None
        assert (noted.facts["caller"], noted.facts["via"]) == (bank.id, PROXY)


def _accepting(body: dict[str, Any], by: Actor) -> dict[str, Any]:
    from tests.fakes.stage import Opened

    return accept_body(Opened(step=body["step"], txn=body["txn"], token=body["token"], args={}, by=by))


async def test_two_clients_take_turns_on_one_connection_and_are_never_mixed_up(stage: Stage) -> None:
    chat, other = await stage.actors("agent/chat", "agent/other")
    roots = {chat.path: (await chat.intent())["step"], other.path: (await other.intent())["step"]}
    shown = {chat.path: of(chat), other.path: of(other)}
    async with hop(stage) as proxy:
        for _ in range(5):
            for me, them in ((chat, other), (other, chat)):
                (await proxy.post(me, "/v1/steps", opening(roots[me.path]), shown[me.path])).ok()
                stolen = await proxy.post(me, "/v1/steps", opening(roots[them.path]), shown[me.path])
                stage.forget_refusals()
                refused(stage, stolen, "not_found", "wrong_workload")


async def test_a_certificate_with_intermediates_is_verified_with_its_chain(stage: Stage) -> None:
    chat, middle = await stage.actor("agent/chat"), authority(stage)
    below = FakeCa(stage.domain, now=time.time(), parent=middle)
    issued, root = below.issue(chat.id), await chat.intent()
    chain = ("Client-Cert-Chain", sequence(issued.intermediates[0]))
    async with hop(stage) as proxy:
        alone = await proxy.post(chat, "/v1/steps", opening(root["step"]), forwarded(issued))
        assert nobody(alone) == "x509:untrusted"
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), [*forwarded(issued), chain])).ok()


# --- the proxy is believed about possession only


ME = spiffe("agent/chat")
FORGED: dict[str, tuple[Callable[[FakeCa], Issued], str]] = {
    "an authority nobody knows": (lambda ca: FakeCa(ca.trust_domain, now=ca.now).issue(ME), "x509:untrusted"),
    "a life that is over": (lambda ca: ca.issue(ME, begins=-7200, ends=-60), "x509:expired"),
    "a life to come": (lambda ca: ca.issue(ME, begins=600, ends=700), "x509:not_yet_valid"),
    "two IDs": (lambda ca: ca.issue(uris=(ME, spiffe("agent/other"))), "x509:many_uris"),
    "a CA": (lambda ca: ca.issue(ME, is_ca=True), "x509:leaf_is_ca"),
    "nobody registered": (lambda ca: ca.issue(spiffe("agent/nobody")), "registry"),
    "a domain without bundle": (lambda ca: ca.issue("spiffe://else.test/agent"), "x509:unknown_trust_domain"),
    "the proxy itself": (lambda ca: ca.issue(PROXY), "proxy:itself"),
}


@pytest.mark.parametrize("which", FORGED)
async def test_what_the_proxy_forwards_is_verified_as_if_it_had_come_directly(
    stage: Stage, which: str
) -> None:
    chat = await stage.actor("agent/chat")
    root, (forge, rule) = await chat.intent(), FORGED[which]
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat))).ok()
        told = await proxy.post(chat, "/v1/steps", opening(root["step"]), forwarded(forge(authority(stage))))
        assert nobody(told) == rule
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat))).ok()


CHAT, OTHER = "agent/chat", "agent/other"
SAYS: dict[str, tuple[Callable[[bytes, bytes], Sent], str]] = {
    "nothing": (lambda me, _: [], "proxy:no_certificate"),
    "two certificates": (
        lambda me, them: [("Client-Cert", sequence(me)), ("Client-Cert", sequence(them))], "proxy:sent_twice"
    ),
    "two in one field": (
        lambda me, them: [("Client-Cert", sequence(me) + b", " + sequence(them))], "proxy:malformed"
    ),
    "both kinds": (
        lambda me, _: [("Client-Cert", sequence(me)), ("X-Forwarded-Client-Cert", xfcc(me))],
        "proxy:other_source",
    ),
    "another kind": (lambda me, _: [("X-Forwarded-Client-Cert", xfcc(me))], "proxy:other_source"),
    "an ID alone": (
        lambda *_: [("X-Forwarded-Client-Cert", f"URI={spiffe(CHAT)}".encode())], "proxy:other_source"
    ),
    "no certificate": (lambda *_: [("Client-Cert", b"::")], "proxy:malformed"),
    "too much": (lambda *_: [("Client-Cert", b":" + b"A" * 40_000 + b":")], "proxy:too_large"),
    "an underscore": (lambda me, _: [("Client_Cert", sequence(me))], "proxy:no_certificate"),
}  # fmt: skip


@pytest.mark.parametrize("which", SAYS)
async def test_the_proxy_says_who_in_exactly_one_way(stage: Stage, which: str) -> None:
    chat, ca = await stage.actor(CHAT), authority(stage)
    root, (says, rule) = await chat.intent(), SAYS[which]
    me, them = ca.issue(chat.id).leaf, ca.issue(spiffe(OTHER)).leaf
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat))).ok()
        assert nobody(await proxy.post(chat, "/v1/steps", opening(root["step"]), says(me, them))) == rule


async def test_a_trailer_field_is_nothing_that_the_proxy_said(stage: Stage) -> None:
    """Proxies set and remove header fields, and pass a client's trailer fields on."""
    chat, other = await stage.actors(CHAT, OTHER)
    asked = opening((await chat.intent())["step"])
    async with hop(stage) as proxy:
        (await proxy.chunked(chat, "/v1/steps", asked, of(chat), [])).ok()
        alone = await proxy.chunked(chat, "/v1/steps", asked, [], of(chat))
        assert nobody(alone) == "proxy:no_certificate"
        (await proxy.chunked(chat, "/v1/steps", asked, of(chat), of(other))).ok()


async def test_a_frozen_proxy_speaks_for_nobody(stage: Stage) -> None:
    chat = await stage.actor(CHAT)
    root = (await chat.intent())["step"]
    step = await chat.open(root, "ledger/note")
    closing = f"/v1/steps/{root}/close", {"v": 1, "outcome": "cancelled"}
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root), of(chat))).ok()
        for target in (f"workload:{PROXY}", f"workload:{spiffe('edge/*')}"):
            assert (await stage.mark("freeze", target)).ok()
            try:
                noted = refused(stage, await proxy.post(chat, "/v1/steps", opening(root), of(chat)), "frozen")
                assert (noted.facts or {})["via"] == PROXY
                refused(stage, await proxy.post(chat, *closing, of(chat)), "frozen")
                assert (await chat.token(step.step)).ok(), "who comes directly is not stopped"
            finally:
                assert (await stage.mark("unfreeze", target)).ok()
        (await proxy.post(chat, "/v1/steps", opening(root), of(chat))).ok()
        (await proxy.post(chat, *closing, of(chat))).ok()


async def test_operators_connect_to_the_broker_itself(stage: Stage) -> None:
    ops = await stage.actor("operator/ops")
    assert (await ops.send("GET", "/v1/admin/marks", b"", {})).status == 200
    async with hop(stage) as proxy:
        assert nobody(await proxy.send("GET", "/v1/admin/marks", b"", of(ops))) == "proxy"
        mark = {"v": 1, "verb": "freeze", "target": "everything:all", "reason": "x"}
        assert nobody(await proxy.post(ops, "/v1/revocations", mark, of(ops))) == "proxy"
    assert not stage.broker.store.marks()


# --- everybody else's headers count for nothing


@pytest.mark.parametrize("kind", ["client-cert", "x-forwarded-client-cert"])
async def test_a_lying_client_stays_itself_and_is_counted(stage: Stage, kind: str) -> None:
    chat, other = await stage.actors(CHAT, OTHER)
    root, leaf = await chat.intent(), authority(stage).issue(chat.id).leaf
    lie = [(kind, sequence(leaf) if kind == "client-cert" else xfcc(leaf))]
    before = counted(stage, "mtls", kind)
    (await as_other(stage, chat, "/v1/steps", opening(root["step"]), [])).ok()
    assert counted(stage, "mtls", kind) == before
    told = await as_other(stage, other, "/v1/steps", opening(root["step"]), lie)
    noted = refused(stage, told, "not_found", "wrong_workload")
    assert noted.facts is not None
    assert noted.facts["caller"] == other.id
    assert "via" not in noted.facts
    assert counted(stage, "mtls", kind) == before + 1


async def test_who_has_an_id_near_the_proxys_is_not_the_proxy(stage: Stage) -> None:
    chat = await stage.actor(CHAT)
    root = await chat.intent()
    for near in ("edge/proxy/1", "edge", "edge/proxy-2", "edge/Proxy"):
        async with Hop(stage, authority(stage).issue(spiffe(near))) as liar:
            told = await liar.post(chat, "/v1/steps", opening(root["step"]), of(chat))
            assert nobody(told) == "registry"
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat))).ok()


async def test_on_the_listener_for_bearers_no_certificate_counts(stage: Stage) -> None:
    lone, chat = Bearer(stage=stage, path="agent/lone"), await stage.actor(CHAT)
    root, before = await chat.intent(), counted(stage, "tls")
    claim = {"client-cert": of(chat)[0][1].decode(), "content-type": "application/json"}
    sent = {**claim, HEADER_OPERATION: new(), HEADER_DPOP: lone.proof("/v1/steps", nonce=await lone.nonce())}
    mine = {**sent, "authorization": f"Bearer {lone.token()}"}
    body = str.encode(
        yaml.safe_dump(opening(root["step"]), default_flow_style=True, width=10_000).replace("'", '"')
    )
    assert nobody(await lone.post("/v1/steps", body, sent)) == "jwt:no_assertion"
    told = await lone.post("/v1/steps", body, mine)
    assert told.status >= 400, told.raw
    assert counted(stage, "tls") == before + 2


async def test_the_proxys_own_bearer_is_nobody(stage: Stage) -> None:
    stage_bearer = Bearer(stage=stage, path="edge/proxy")
    told = await stage_bearer.json("/v1/steps", opening("stp_x"))
    assert nobody(told) == "registry"


# --- the URL of key proofs


async def test_key_proofs_name_the_configured_url_whatever_the_proxy_says_of_its_host(stage: Stage) -> None:
    chat = await stage.actor(CHAT)
    root = await chat.intent()
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat), host="lb.example")).ok()
        wrong = chat.proof("/v1/steps", base="https://lb.example")
        forwarded_host = [*of(chat), ("X-Forwarded-Host", b"lb.example"), ("X-Forwarded-Proto", b"https")]
        told = await proxy.post(
            chat, "/v1/steps", opening(root["step"]), forwarded_host, host="lb.example", proof=wrong
        )
        refused(stage, told, "invalid_proof")


# --- what ends while the proxy's connection goes on


async def test_a_foreign_domain_that_is_withdrawn_ends_for_the_connection_too(stage: Stage) -> None:
    partner = FakeCa(PARTNER, now=time.time())
    theirs = Actor(stage=stage, path="agent")
    shown = forwarded(partner.issue(f"spiffe://{PARTNER}/agent"))
    async with hop(stage) as proxy:
        assert (
            nobody(await proxy.post(theirs, "/v1/steps", opening("stp_x"), shown))
            == "x509:unknown_trust_domain"
        )
        await _bundles(stage, lambda: stage.trust.trust(PARTNER, (partner.der,)))
        refused(stage, await proxy.post(theirs, "/v1/steps", opening("stp_x"), shown), "invalid_request")
        await _bundles(stage, lambda: stage.trust.forget(PARTNER))
        assert (
            nobody(await proxy.post(theirs, "/v1/steps", opening("stp_x"), shown))
            == "x509:unknown_trust_domain"
        )


async def _bundles(stage: Stage, change: Callable[[], None]) -> None:
    import asyncio

    before = stage.broker._bundle_generation()
    change()
    while stage.broker._bundle_generation() == before:
        await asyncio.sleep(0.01)


async def test_a_certificate_that_ends_is_refused_on_the_connection_that_goes_on(stage: Stage) -> None:
    chat, other = await stage.actors(CHAT, OTHER)
    short, root = forwarded(authority(stage).issue(chat.id, ends=60)), await chat.intent()
    async with hop(stage) as proxy:
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), short)).ok()
        stage.pass_time(61)
        assert nobody(await proxy.post(chat, "/v1/steps", opening(root["step"]), short)) == "x509:expired"
        (await proxy.post(chat, "/v1/steps", opening(root["step"]), of(chat))).ok()
        refused(
            stage,
            await proxy.post(other, "/v1/steps", opening(root["step"]), of(other)),
            "not_found",
            "wrong_workload",
        )


# --- the registry


@pytest.mark.parametrize("pattern", [PROXY, spiffe("edge/*"), spiffe("*")])
async def test_a_registry_that_makes_the_proxy_a_workload_is_refused(stage: Stage, pattern: str) -> None:
    good = (stage.folder / "registry.yaml").read_text()
    document = yaml.safe_load(good)
    kept = document["entries"] if pattern != spiffe("*") else []
    entries = [*kept, {**EDGE, "id": pattern, "may_start": {"tools": [], "impact": "low"}}]
    document = {**document, "entries": entries, "count": len(entries)}
    told = await stage.apply("registry", yaml.safe_dump(document, sort_keys=False))
    assert told.status == 400, told.raw
    assert "a proxy speaks for others, so it is no workload itself" in told.refusal["reason"]
    assert (await stage.apply("registry", good)).status == 200


async def test_a_broker_does_not_start_with_a_proxy_that_is_a_workload_and_without_one_no_header_counts() -> (
    None
):
    async with Stage(entries=[*ENTRIES, EDGE]) as stage:
        chat = await stage.actor(CHAT)
        root = await chat.intent()
        async with hop(stage) as workload:  # a workload like any other: what it says of others is ignored
            told = await workload.post(chat, "/v1/steps", opening(root["step"]), of(chat))
            refused(stage, told, "not_found", "wrong_workload")
        assert counted(stage, "mtls") == 1
        stage.proxy = Proxy(id=PROXY, source="client-cert")
        await stage.stop()
        with pytest.raises(Malformed, match="so it is no workload itself"):
            await stage.start()
        stage.proxy = None
        await stage.start()

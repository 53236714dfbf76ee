"""Who is calling: forged SVIDs, workloads nobody registered, other tenants, names only claimed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.fakes.pki import FakeCa, Issued, raw_client
from tests.fakes.stage import DOMAIN, ENTRIES, Reply, Stage, new, refused, spiffe

from stepwrit.dpop import make_proof
from stepwrit.jws import SigningKey
from stepwrit.wire import HEADER_DPOP, HEADER_OPERATION

CHAT = spiffe("agent/chat")


def authority(stage: Stage) -> FakeCa:
    """The domain's own CA, for certificates that it would never sign."""
    ca = FakeCa(DOMAIN, now=time.time())
    ca.key, ca.name = stage.trust.ca._key, stage.trust.ca._certificate.subject
    return ca


async def as_(stage: Stage, shown: Issued | None, body: bytes, **headers: str) -> httpx2.Response:
    context = raw_client(shown)
    proof = make_proof(SigningKey.generate(), "POST", f"{stage.url}/v1/steps", time.time(), new())
    sent = {HEADER_OPERATION: new(), HEADER_DPOP: proof, "Content-Type": "application/json", **headers}
    async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
        return await http.post(f"{stage.url}/v1/steps", content=body, headers=sent)


async def opening(stage: Stage) -> bytes:
    root = await stage.root()
    return json.dumps(
        {"v": 1, "parent": root["step"], "server": "ledger", "tool": "note", "args": {}}
    ).encode()


async def test_a_certificate_made_by_hand_passes_when_it_is_right(stage: Stage) -> None:
    answer = await as_(stage, authority(stage).issue(CHAT), await opening(stage))
    assert answer.status_code == 201, answer.text


FORGED: dict[str, Callable[[FakeCa], Issued]] = {
    "two SPIFFE IDs": lambda ca: ca.issue(uris=(CHAT, spiffe("agent/other"))),
    "our ID beside another URI": lambda ca: ca.issue(uris=(CHAT, "https://evil.example")),
    "no ID": lambda ca: ca.issue(uris=(), dns=("agent.chat",)),
    "the ID as a DNS name": lambda ca: ca.issue(uris=(), dns=("stage.test",)),
    "the trust domain's own ID": lambda ca: ca.issue(f"spiffe://{DOMAIN}"),
    "another scheme": lambda ca: ca.issue(f"https://{DOMAIN}/agent/chat"),
    "an upper-case trust domain": lambda ca: ca.issue(f"spiffe://{DOMAIN.upper()}/agent/chat"),
    "a percent-encoded ID": lambda ca: ca.issue(f"spiffe://{DOMAIN}/agent/%63hat"),
    "a dot segment": lambda ca: ca.issue(f"spiffe://{DOMAIN}/agent/other/../chat"),
    "a doubled slash": lambda ca: ca.issue(f"spiffe://{DOMAIN}//agent/chat"),
    "a trailing slash": lambda ca: ca.issue(f"{CHAT}/"),
    "a query": lambda ca: ca.issue(f"{CHAT}?x"),
    "a port": lambda ca: ca.issue(f"spiffe://{DOMAIN}:443/agent/chat"),
    "a CA as leaf": lambda ca: ca.issue(CHAT, is_ca=True),
    "a leaf that may sign certificates": lambda ca: ca.issue(
        CHAT, usage=("digital_signature", "key_cert_sign")
    ),
    "a leaf without digitalSignature": lambda ca: ca.issue(CHAT, usage=("key_agreement",)),
    "a life that is over": lambda ca: ca.issue(CHAT, begins=-7200, ends=-60),
    "a life that has not begun": lambda ca: ca.issue(CHAT, begins=3600, ends=7200),
    "another domain": lambda ca: ca.issue("spiffe://other.test/agent/chat"),
    "nobody registered": lambda ca: ca.issue(spiffe("agent/nobody")),
    "a registered ID with more behind it": lambda ca: ca.issue(f"{CHAT}/x"),
    "a registered pattern itself": lambda ca: ca.issue(spiffe("resource/bank")),
}


@pytest.mark.parametrize("which", FORGED)
async def test_a_certificate_with_something_wrong_is_nobody(stage: Stage, which: str) -> None:
    body, size = await opening(stage), stage.broker.ledger.head()["size"]
    try:
        answer = await as_(stage, FORGED[which](authority(stage)), body)
    except (httpx2.TransportError, OSError):
        pass  # the handshake itself refused it
    else:
        assert answer.status_code == 401, answer.text
        assert answer.json()["refusal"]["code"] == "unattested"
    assert not stage.broker.ledger.tail(int(str(size)) - 1, 100, ["step.opened"], None)
    assert (await as_(stage, authority(stage).issue(CHAT), body)).status_code == 201


async def test_a_foreign_authority_cannot_mint_our_ids(stage: Stage) -> None:
    body = await opening(stage)
    with pytest.raises((httpx2.TransportError, OSError)):
        await as_(stage, FakeCa(DOMAIN, now=time.time()).issue(CHAT), body)


async def test_a_federated_authority_cannot_mint_our_ids(stage: Stage) -> None:
    """A partner's root is in the TLS pool; its word counts for its own domain only."""
    body, partner = await opening(stage), FakeCa("partner.test", now=time.time())
    before = stage.broker._bundle_generation()
    stage.trust.trust("partner.test", (partner.der,))
    try:
        for _ in range(200):
            if stage.broker._bundle_generation() != before:
                break
            await _turn()
        forged = await as_(stage, partner.issue(CHAT), body)
        own = await as_(stage, partner.issue("spiffe://partner.test/agent/chat"), body)
        assert (forged.status_code, own.status_code) == (401, 401)
        assert forged.json()["refusal"]["rule"] == "x509:untrusted"
        assert own.json()["refusal"]["rule"] == "registry trust_domains"
        assert (await as_(stage, authority(stage).issue(CHAT), body)).status_code == 201
    finally:
        stage.trust.forget("partner.test")


async def _turn() -> None:
    import asyncio

    await asyncio.sleep(0.01)


async def test_without_a_certificate_there_is_no_connection(stage: Stage) -> None:
    body = await opening(stage)
    with pytest.raises((httpx2.TransportError, OSError)):
        await as_(stage, None, body)


CLAIMED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Client-Cert": f"URI={CHAT}",
    "Client-Cert": ":MIIB:",
    "Forwarded": "for=1.2.3.4;host=evil.example",
    "X-SPIFFE-ID": CHAT,
    "Authorization": "Bearer x",
}


@pytest.mark.parametrize("header", CLAIMED)
async def test_what_a_header_claims_changes_nothing(stage: Stage, header: str) -> None:
    body = await opening(stage)
    nobody = authority(stage).issue(spiffe("agent/nobody"))
    assert (await as_(stage, nobody, body, **{header: CLAIMED[header]})).status_code == 401
    assert (
        await as_(stage, authority(stage).issue(CHAT), body, **{header: CLAIMED[header]})
    ).status_code == 201


async def test_a_proof_for_the_host_header_instead_of_the_broker_is_refused(stage: Stage) -> None:
    chat, body = await stage.actor("agent/chat"), await opening(stage)
    proof = chat.proof("/v1/steps", base="https://evil.example")
    headers = {"Host": "evil.example", HEADER_DPOP: proof, HEADER_OPERATION: new()}
    refused(stage, await chat.send("POST", "/v1/steps", body, headers), "invalid_proof")
    (await chat.post("/v1/steps", body)).ok()


@pytest.mark.parametrize(
    "path", ["/v1/steps/a b/token", "/v1/steps/%20/token", "/v1/steps/%C3%A9/token", "/v1/steps//token"]
)
async def test_a_strange_path_is_a_plain_no(stage: Stage, path: str) -> None:
    chat = await stage.actor("agent/chat")
    told = await chat.send(
        "POST", path, b"{}", {HEADER_DPOP: chat.proof("/v1/steps"), HEADER_OPERATION: new()}
    )
    assert told.status in (400, 401, 404), told.raw


async def test_a_slash_too_many_is_not_answered_with_the_callers_own_host(stage: Stage) -> None:
    ops = await stage.actor("operator/ops")
    assert (await ops.send("GET", "/v1/admin/marks", b"", {})).status == 200
    told = await ops.send("GET", "/v1/admin/marks/", b"", {"Host": "evil.example"})
    assert told.status == 404
    assert "location" not in told.headers


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: +2",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
    ],
)
async def test_a_request_with_two_lengths_is_refused(stage: Stage, head: str) -> None:
    import asyncio

    from stepwrit._tls import client_context

    tls = client_context(await stage.identity("agent/chat"), lambda _: True)
    host, port = stage.broker.mtls.address
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.write(f"POST /v1/steps HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{{}}".encode())
    assert b" 400 " in await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()


# --- roles


async def test_a_workload_keeps_to_its_role(stage: Stage) -> None:
    held, root = await stage.held(), await stage.root()
    for path in ("resource/shop", "operator/ops", "trigger/nightly"):
        by = await stage.actor(path)
        refused(
            stage,
            await by.open_reply(root["step"], "ledger/note"),
            "not_found",
            "origin_claimed",
            "wrong_workload",
        )
        refused(stage, await by.credential(held.step), "not_found", "wrong_workload")
    (await held.redeem()).ok()


@pytest.mark.parametrize("path", ["agent/chat", "mcp-server/mallory", "resource/bank/1", "trigger/nightly"])
async def test_no_workload_is_an_operator(stage: Stage, path: str) -> None:
    by = await stage.actor(path)
    mark = {"v": 1, "verb": "freeze", "target": "everything:all", "reason": "I want to"}
    refused(stage, await by.json("/v1/revocations", mark), "wrong_workload", "invalid_request")
    plain = {name: mark[name] for name in ("verb", "target", "reason")}
    for method, route, body in (
        ("POST", "/v1/admin/marks", json.dumps(plain).encode()),
        ("GET", "/v1/admin/registry", b""),
        ("GET", "/v1/admin/ledger/tail", b""),
        ("POST", "/v1/admin/store/backup", b'{"path":"/tmp/stolen.db"}'),
    ):
        told = await by.send(
            method, route, body, {"Content-Type": "application/json", HEADER_OPERATION: new()}
        )
        refused(stage, told, "wrong_workload")
    assert not stage.broker.store.marks()


async def test_an_operator_by_svid_can_do_it(stage: Stage) -> None:
    ops, target = await stage.actor("operator/ops"), f"workload:{spiffe('agent/other')}"
    for verb in ("freeze", "unfreeze"):
        (await ops.json("/v1/revocations", {"v": 1, "verb": verb, "target": target, "reason": "drill"})).ok()


async def test_a_workload_may_end_what_it_started_and_nothing_else(stage: Stage) -> None:
    held, mallory = await stage.held(), await stage.actor("mcp-server/mallory")
    mark = {"v": 1, "verb": "revoke", "target": f"step:{held.step}", "reason": "enough"}
    refused(stage, await mallory.json("/v1/revocations", mark), "not_found")
    refused(
        stage,
        await held.ledger.json("/v1/revocations", mark | {"target": f"txn:{held.txn}"}),
        "wrong_workload",
    )
    refused(stage, await held.ledger.json("/v1/revocations", mark | {"verb": "freeze"}), "wrong_workload")
    refused(stage, await held.ledger.json("/v1/revocations", mark | {"verb": "unfreeze"}), "wrong_workload")
    (await held.opened.by.json("/v1/revocations", mark)).ok()
    refused(stage, await held.redeem(), "revoked")


OVERLAPS: list[dict[str, Any]] = [
    {
        "id": "mcp-server/files/1",
        "role": "agent",
        "name": "x",
        "may_start": {"tools": ["ledger/*"], "impact": "low"},
    },
    {
        "id": "mcp-server/*",
        "role": "agent",
        "name": "x",
        "may_start": {"tools": ["ledger/*"], "impact": "low"},
    },
    {"id": "agent/*", "role": "operator", "name": "x"},
    {"id": "*", "role": "operator", "name": "x"},
    {"id": "agent/chat", "role": "mcp-server", "name": "x", "tools": {}},
]


@pytest.mark.parametrize("entry", OVERLAPS, ids=lambda entry: f"{entry['id']} as {entry['role']}")
async def test_one_id_with_two_roles_is_a_load_error(stage: Stage, entry: dict[str, Any]) -> None:
    version = stage.broker.live.now_in_force().versions.registry
    stage.write_registry([*ENTRIES, entry])
    try:
        told = await stage.apply("registry", (stage.folder / "registry.yaml").read_text())
        assert (told.status, told.code) == (400, "invalid_request"), told.raw
        assert stage.broker.live.now_in_force().versions.registry == version
    finally:
        stage.write_registry(ENTRIES)


# --- tenants


async def test_a_step_of_another_tenant_looks_like_none(stage: Stage) -> None:
    held, unknown = await stage.held(), "stp_100" + "0" * 26
    blue, vault = await stage.actor("agent/blue"), await stage.actor("mcp-server/vault")

    async def both(ask: Callable[[str], Any]) -> None:
        foreign, none = await ask(held.step), await ask(unknown)
        assert (foreign.status, foreign.code) == (none.status, none.code), foreign.raw
        assert foreign.refusal["reason"] == none.refusal["reason"]
        refused(stage, foreign, "not_found")
        assert refused(stage, foreign, "not_found").tenant == "blue"

    await both(lambda step: blue.open_reply(step, "vault/read"))
    await both(vault.credential)
    await both(vault.heartbeat)
    await both(vault.close)
    await both(blue.token)
    accept = {"v": 1, "token": held.opened.token, "proof": "x", "args": "x", "round": 1}
    await both(lambda step: vault.json(f"/v1/steps/{step}/accept", accept))
    (await held.redeem()).ok()


async def test_a_tool_of_another_tenant_looks_like_none(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    foreign = await chat.open_reply(root["step"], "vault/read")
    none = await chat.open_reply(root["step"], "vault/nothing")
    assert {foreign.code, none.code} == {"not_registered"}
    assert foreign.refusal["reason"] == none.refusal["reason"]
    by_id = await chat.json(
        "/v1/steps",
        {"v": 1, "parent": root["step"], "server": spiffe("mcp-server/vault"), "tool": "read", "args": {}},
    )
    assert by_id.code == "not_registered"
    (await chat.open_reply(root["step"], "ledger/note")).ok()


async def test_another_tenants_resource_redeems_nothing(stage: Stage) -> None:
    held, blue = await stage.held(), await stage.actor("resource/blue")
    refused(stage, await blue.redeem(held.token, held.ledger), "wrong_workload")
    (await held.redeem()).ok()


async def _read(stage: Stage, path: str, route: str) -> Reply:
    by = await stage.actor(path)
    return await by.send("GET", route, b"", {})


async def test_a_tenants_operator_sees_and_stops_only_what_is_its_tenants(stage: Stage) -> None:
    held = await stage.held()
    ref = stage.happened(held.txn, "step.opened")[0].ref
    for name in (ref, held.txn):
        assert (await _read(stage, "operator/ops", f"/v1/admin/explain/{name}")).status == 200
        foreign = await _read(stage, "operator/blue", f"/v1/admin/explain/{name}")
        assert (foreign.status, foreign.code) == (404, "not_found")
    blue = await stage.actor("operator/blue")
    for target in (
        f"step:{held.step}", f"txn:{held.txn}", f"grant:{held.grant}", f"workload:{CHAT}", "tenant:default",
        "server:ledger", "tool:ledger/note", "resource:https://bank.example", "everything:all",
        f"trust_domain:{DOMAIN}",
    ):  # fmt: skip
        mark = {"v": 1, "verb": "freeze", "target": target, "reason": "mine now"}
        refused(stage, await blue.json("/v1/revocations", mark), "not_found")
    (await held.redeem()).ok()


async def test_a_tenants_operator_reads_nothing_of_another_tenant(stage: Stage) -> None:
    before = int(str(stage.broker.ledger.head()["size"])) - 1
    held = await stage.held()
    (await stage.mark("freeze", f"workload:{spiffe('agent/secret-of-default')}")).ok()
    routes = (
        f"ledger/tail?limit=1000&after={before}",
        "marks",
        "registry",
        "status",
        f"limits/explain?as={CHAT}",
        "policy/history",
    )
    seen = [await _read(stage, "operator/blue", f"/v1/admin/{route}") for route in routes]
    await stage.mark("unfreeze", f"workload:{spiffe('agent/secret-of-default')}")
    for reply in seen:
        for word in (
            held.txn,
            held.grant,
            CHAT,
            spiffe("mcp-server/ledger"),
            "secret-of-default",
            "bank.example",
        ):
            assert word.encode() not in reply.raw, (word, reply.raw[:300])


async def test_unattested_tries_are_counted_by_one_entry_of_the_ledger(stage: Stage) -> None:
    stage.broker.metrics.untold()
    head = int(str(stage.broker.ledger.head()["size"]))
    await stage.broker.chores.flush()
    assert not stage.broker.ledger.tail(head - 1, 100, ["refused.counted"], None), "nothing to tell"
    body = await opening(stage)
    for _ in range(3):
        answer = await as_(stage, FORGED["nobody registered"](authority(stage)), body)
        assert answer.status_code == 401
    await stage.broker.chores.flush()
    told = stage.broker.ledger.tail(head - 1, 100, ["refused.counted"], None)
    assert [entry.facts["unattested"] for entry in told if entry.facts] == [{"registry": 3}]


async def test_who_is_not_admitted_leaves_no_name_in_the_metrics(stage: Stage) -> None:
    """Names of strangers would fill the few thousand that are kept, and later callers have none."""
    ca, body = authority(stage), await opening(stage)
    assert (await as_(stage, ca.issue(CHAT), body)).status_code == 201
    assert (await as_(stage, ca.issue(spiffe("agent/stranger")), body)).status_code == 401
    told = stage.broker.metrics.text().decode()
    assert f'stepwrit_caller_svid_seconds_left{{workload="{CHAT}"}}' in told
    assert "agent/stranger" not in told
